r"""Conversion of the tokenizer and the chat template of GGUF files for PaddleNLP.

Byte-level vocabularies are converted to a ``tokenizer.json`` for ``PretrainedTokenizerFast``,
which uses the same library and rules as Hugging Face. PaddleNLP's ``Qwen2Tokenizer`` would be
simpler, but it splits white space by other rules and normalizes accents, so IDs differ
("\n\t", two letters that make one "é"), and upstream's packing fails with it.

Sentencepiece vocabularies are converted to a ``sentencepiece.bpe.model`` for ``LlamaTokenizer``.
"""

from __future__ import annotations

import json
from typing import Any

from entrypoints.fetching import sentencepiece_file
from entrypoints.fetching.gguf_file import Gguf
from entrypoints.fetching.sentencepiece_file import Vocabulary
from paddle_stacks.errors import Problem, RequestError

__all__ = ["MODEL_INPUTS", "files", "split_rule", "trimmed_template"]

MODEL_INPUTS = ["input_ids", "attention_mask"]
"""The tokenizer's outputs. The fast tokenizer's default includes ``token_type_ids``, with
which ``generate()`` fails."""

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # llama.cpp's token types

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By llama.cpp's name of the rule (src/llama-vocab.cpp), in the tokenizers library's terms.
_SPLITS: dict[str, dict[str, Any]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    },
    "llama-bpe": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": _LLAMA_3},
                "behavior": "Isolated",
                "invert": False,
            },
            {**_BYTE_LEVEL, "use_regex": False},
        ],
    },
}


def files(source: Gguf) -> dict[str, bytes]:
    """Return the tokenizer's files by name.

    Raises:
        RequestError: the tokenizer is incomplete or not supported.
    """
    kind = source.metadata.get("tokenizer.ggml.model")
    common = _config(source)
    own: dict[str, Any]
    if kind == "gpt2":
        content = {"tokenizer.json": _json(_byte_level(source))}
        own = {
            "tokenizer_class": "PretrainedTokenizerFast",
            "model_input_names": MODEL_INPUTS,
        }
    elif kind == "llama":
        content = {"sentencepiece.bpe.model": _sentencepiece(source)}
        own = {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": _adds_bos(source, True),
        }
    else:
        raise RequestError(
            f'the tokenizer model "{kind}" is not supported',
            where=str(source.path),
            remedy="supported: gpt2 (byte-level BPE) and llama (sentencepiece)",
        )
    return content | {"tokenizer_config.json": _json(common | own)}


def split_rule(pre_tokenizer: Any) -> str:
    """Return llama.cpp's name of the rule that a ``pre_tokenizer`` is; empty for none."""
    return next((name for name, split in _SPLITS.items() if split == pre_tokenizer), "")


def trimmed_template(template: str) -> str:
    """Return a chat template that PaddleNLP renders like Hugging Face.

    PaddleNLP keeps a newline at the end of the template, Hugging Face drops it.
    """
    return template[:-1] if template.endswith("\n") else template


def _config(source: Gguf) -> dict[str, Any]:
    tokens, _ = _vocabulary(source)
    eos = source.get("tokenizer.ggml.eos_token_id", int)
    numbers = {
        "bos_token": source.get("tokenizer.ggml.bos_token_id", int),
        "eos_token": eos,
        "pad_token": source.get("tokenizer.ggml.padding_token_id", int, eos),
    }
    if "tokenizer.ggml.unknown_token_id" in source.metadata:
        numbers["unk_token"] = source.get("tokenizer.ggml.unknown_token_id", int)
    beyond = [f"{key} {n}" for key, n in numbers.items() if not 0 <= n < len(tokens)]
    if beyond:
        raise RequestError(
            f"outside the vocabulary: {', '.join(beyond)}",
            where=str(source.path),
            remedy="get the file again, or the model's Hugging Face folder instead",
        )
    config: dict[str, Any] = {key: tokens[number] for key, number in numbers.items()}
    config |= {
        "model_max_length": source.get("llama.context_length", int),
        "padding_side": "left",  # generation continues on the right
        "clean_up_tokenization_spaces": False,
    }
    template = source.get("tokenizer.chat_template", str, "")
    return config | ({"chat_template": trimmed_template(template)} if template else {})


def _byte_level(source: Gguf) -> dict[str, Any]:
    tokens, types = _vocabulary(source)
    split = source.metadata.get("tokenizer.ggml.pre")
    if split not in _SPLITS:
        raise RequestError(
            f'the pre-tokenizer "{split}" is not supported',
            where=str(source.path),
            remedy=f"supported: {', '.join(_SPLITS)}",
        )
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL,
        }
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _SPLITS[split],
        "post_processor": _begin_of_text(source, tokens) if _adds_bos(source, False) else None,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # Llama 3 ignores merges for words that are in the vocabulary.
            "ignore_merges": split == "llama-bpe",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": _merges(source, set(tokens)),
        },
    }


def _vocabulary(source: Gguf) -> tuple[list[str], list[int]]:
    tokens = source.get("tokenizer.ggml.tokens", list)
    types = source.get("tokenizer.ggml.token_type", list)
    # The items of an array have one type, so checking the first is enough.
    sound = tokens and types and isinstance(tokens[0], str) and isinstance(types[0], int)
    if not sound or len(types) != len(tokens):
        raise RequestError(
            f"incomplete vocabulary: {len(tokens)} tokens, but {len(types)} token types",
            where=str(source.path),
            remedy="get the file again, or the model's Hugging Face folder instead",
        )
    if len(set(tokens)) != len(tokens):
        raise RequestError(
            "the vocabulary has duplicate tokens",
            where=str(source.path),
            remedy="get the file again, or the model's Hugging Face folder instead",
        )
    return tokens, types


def _merges(source: Gguf, tokens: set[str]) -> list[str]:
    merges: list[str] = source.get("tokenizer.ggml.merges", list, [])
    faults = [
        Problem(
            f'merge {number} "{merge}" is not in the vocabulary',
            str(source.path),
            "get the file again, or the model's Hugging Face folder instead",
        )
        for number, merge in enumerate(merges)
        if len(parts := str(merge).split(" ")) != 2 or not {*parts, "".join(parts)} <= tokens
    ]
    if not merges:
        faults = [
            Problem(
                "tokenizer.ggml.merges is missing",
                str(source.path),
                "get the file again, or the model's Hugging Face folder instead",
            )
        ]
    if faults:
        raise RequestError(faults[:20])
    return merges


def _adds_bos(source: Gguf, default: bool) -> bool:
    return bool(source.metadata.get("tokenizer.ggml.add_bos_token", default))


def _begin_of_text(source: Gguf, tokens: list[str]) -> dict[str, Any]:
    number = source.metadata["tokenizer.ggml.bos_token_id"]
    bos = tokens[number]

    def special(kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": bos, "type_id": kind}}

    def text(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    return {
        "type": "TemplateProcessing",
        "single": [special(0), text("A", 0)],
        "pair": [special(0), text("A", 0), special(1), text("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }


def _sentencepiece(source: Gguf) -> bytes:
    """Return the sentencepiece model of the vocabulary."""
    tokens, types = _vocabulary(source)
    scores = source.get("tokenizer.ggml.scores", list)
    if len(scores) != len(tokens) or not isinstance(scores[0], float):
        raise RequestError(
            f"{len(tokens)} tokens, but {len(scores)} scores",
            where=str(source.path),
            remedy="get the file again, or the model's Hugging Face folder instead",
        )
    unknown = types.index(_UNKNOWN) if _UNKNOWN in types else 0
    return sentencepiece_file.encode(
        Vocabulary(
            pieces=tokens,
            scores=scores,
            types=types,  # llama.cpp uses sentencepiece's numbers
            unknown=source.get("tokenizer.ggml.unknown_token_id", int, unknown),
            begin=source.get("tokenizer.ggml.bos_token_id", int),
            end=source.get("tokenizer.ggml.eos_token_id", int),
            dummy_prefix=source.get("tokenizer.ggml.add_space_prefix", bool, True),
        )
    )


def _json(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, ensure_ascii=False, indent=2) + "\n").encode("utf-8")

"""A model to begin from scratch: its shape, and a tokenizer trained on a text, without weights."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from entrypoints.models.files import write_json
from entrypoints.preparing.documents import Rules, documents
from entrypoints.preparing.reading import Place, Reader
from entrypoints.runtime import console
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import corpus
from paddle_stacks.jobs.models import Model

__all__ = ["make", "sha256_of_shape", "train_pieces"]

_MOST = 32 * 2**20  # characters to train on: sentencepiece keeps all of them in memory
_LINE = 8192  # characters that are given to it at once
_UNKNOWN, _BEGIN, _END = 0, 1, 2  # sentencepiece's own numbers


def make(model: Model, folder: Path) -> None:
    """Write the model into ``folder``, which exists and is empty.

    The same text gives the same files, byte for byte.

    Args:
        model: of the kind ``scratch``.
        folder: where it goes.

    Raises:
        RequestError: the text cannot be read, or is not one for a vocabulary of that size.
    """
    text = model.source.value
    sources = corpus.sources([text])
    console.phase("train the tokenizer")
    lines, size = _lines(sources)
    pieces = train_pieces(lines, int(model.architecture["vocab_size"]), text)
    console.note(f"{model.architecture['vocab_size']} pieces, from {size} characters of {text}")
    (folder / "sentencepiece.bpe.model").write_bytes(pieces)
    write_json(folder / "tokenizer_config.json", _tokenizer(model))
    config = _config(model)
    write_json(folder / "config.json", config)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    write_json(folder / "generation_config.json", {key: config[key] for key in ids})


def sha256_of_shape(model: Model) -> str:
    """Return a sum of what the model's row says of its shape."""
    shape = json.dumps(dict(model.architecture), sort_keys=True)
    return hashlib.sha256(shape.encode()).hexdigest()


def train_pieces(lines: list[str], vocabulary: int, text: str) -> bytes:
    """Return a sentencepiece model.

    It is Llama's kind: byte pairs, digits one by one, bytes for what no piece covers. White
    space is kept as it is, and its runs are pieces, as code needs it.

    Args:
        lines: to train on.
        vocabulary: how many pieces it shall have.
        text: where the lines are from, for messages.

    Raises:
        RequestError: the vocabulary is too large or too small for the text.
    """
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=4 * _LINE,  # bytes
            num_threads=1,  # it is written into the model
            minloglevel=3,
        )
    except RuntimeError as error:
        raise RequestError(
            f"no tokenizer of {vocabulary} pieces can be trained on it: {error}",
            where=text,
            remedy="another text, or another vocab_size in the model's row",
        ) from error
    return model.getvalue()


def _lines(sources: tuple[corpus.Source, ...]) -> tuple[list[str], int]:
    """Return the lines of the first :data:`_MOST` characters, and how many characters those are."""
    lines: list[str] = []
    size = 0
    for text in _texts(sources):
        for line in text.splitlines():
            if line.strip():
                lines += [line[at : at + _LINE] for at in range(0, len(line), _LINE)]
        size += len(text)
        if size >= _MOST:
            break
    return lines, size


def _texts(sources: tuple[corpus.Source, ...]) -> Iterator[str]:
    rules = Rules()
    for source in sources:
        reader = Reader(source, rules.document)
        try:
            for block in reader.blocks(Place()):
                yield from documents(block, source.format, rules).texts
        finally:
            reader.close()


def _tokenizer(model: Model) -> dict[str, Any]:
    return {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        # A corpus of `prepare` has no begin tokens, so that the model never sees one.
        "add_bos_token": False,
        "model_max_length": model.context,
        "padding_side": "left",  # a model that generates goes on from the right
        "clean_up_tokenization_spaces": False,
    }


def _config(model: Model) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        **model.architecture,
        "bos_token_id": _BEGIN,
        "eos_token_id": _END,
        "pad_token_id": _UNKNOWN,
        "use_cache": True,
        "dtype": "float32",
    }

"""New models for pretraining: a configuration and a trained tokenizer, without weights."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from entrypoints.models.files import write_json
from entrypoints.preparing.documents import Rules, documents
from entrypoints.preparing.reading import Position, Reader
from entrypoints.runtime import console
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import corpus
from paddle_stacks.jobs.models import Model

__all__ = ["make", "sha256_of_shape", "train_pieces"]

_MOST = 32 * 2**20  # characters to train on, which sentencepiece keeps in memory
_LINE = 8192  # characters per line
_UNKNOWN, _BEGIN, _END = 0, 1, 2  # sentencepiece's IDs


def make(model: Model, folder: Path) -> None:
    """Write the model into ``folder``, which exists and is empty.

    The files only depend on the text.

    Args:
        model: of the kind ``scratch``.
        folder: the destination.

    Raises:
        RequestError: the text cannot be read, or does not suit the size of the vocabulary.
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
    """Return the SHA-256 of the model's configuration."""
    shape = json.dumps(dict(model.architecture), sort_keys=True)
    return hashlib.sha256(shape.encode()).hexdigest()


def train_pieces(lines: list[str], vocabulary: int, text: str) -> bytes:
    """Return a sentencepiece model.

    Like Llama's, it uses byte pairs, single digits and byte fallback. White space is preserved,
    and runs of it are pieces, which suits code.

    Args:
        lines: to train on.
        vocabulary: the number of pieces.
        text: the source of the lines, for messages.

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
            num_threads=1,  # the number is stored in the model
            minloglevel=3,
        )
    except RuntimeError as error:
        raise RequestError(
            f"a tokenizer with {vocabulary} pieces cannot be trained on this text: {error}",
            where=text,
            remedy="use another text, or another vocab_size in the model's row",
        ) from error
    return model.getvalue()


def _lines(sources: tuple[corpus.Source, ...]) -> tuple[list[str], int]:
    """Return the lines of the first :data:`_MOST` characters, and their number of characters."""
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
            for block in reader.blocks(Position()):
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
        # A corpus of `prepare` has no begin tokens.
        "add_bos_token": False,
        "model_max_length": model.context,
        "padding_side": "left",  # generation continues on the right
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

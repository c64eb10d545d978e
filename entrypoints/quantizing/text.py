"""What a model is calibrated on, and what it is measured on, as rows of tokens."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from entrypoints.training.data import Encoder
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import quantizing, records, texts
from paddle_stacks.jobs.datasets import Dataset
from paddle_stacks.jobs.quantizing import DEFAULT_TEXT, Method
from paddle_stacks.jobs.schema import Config

__all__ = ["Rows", "Texts", "read"]

_HELD_OUT = 16  # rows of a text that nobody has divided
_LONGEST_TOKEN = 16  # characters; a text's beginning is enough for its first tokens
_LEAST = 2  # tokens of a row: one to read, one to predict


@dataclass(frozen=True)
class Rows:
    """Rows of tokens, and where they are from.

    Args:
        source: a file's or a text's name.
        rows: token ids.
    """

    source: str
    rows: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """How many there are in all rows."""
        return sum(map(len, self.rows))

    def steps(self, size: int, count: int) -> Iterator[Sequence[tuple[int, ...]]]:
        """Yield the first ``count`` steps of ``size`` rows; the last may be smaller."""
        for begin in range(0, min(len(self.rows), size * count), size):
            yield self.rows[begin : begin + size]

    def described(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {"source": self.source, "rows": len(self.rows), "tokens": self.tokens}


@dataclass(frozen=True)
class Texts:
    """What a quantization reads.

    Args:
        calibration: in the order of its steps; None where the method needs none.
        held_out: what it is measured on; of other documents.
    """

    calibration: Rows | None
    held_out: Rows


def read(config: Config, tokenizer: Any, context: int) -> Texts:
    """Return the rows that a configuration asks for.

    Of records, those of ``quant.json``, or of ``train.json`` without it, are calibrated on
    in a random order, as upstream's loader has it, and those of ``dev.json`` are held out.
    Of a text, documents alternate: each is in one part alone.

    Args:
        config: of the job.
        tokenizer: the model's.
        context: tokens that it can look back on.

    Raises:
        RequestError: the data cannot be read, or there is too little of it.
    """
    name = config["dataset_name_or_path"] or DEFAULT_TEXT
    length = min(config["max_length"], context)
    method = Method.of(config)
    steps = max(
        config["ptq_step"] if method.activations else 0,
        config["shift_step"] if config["shift"] else 0,
        config["smooth_step"] if config["smooth"] else 0,
    )
    count = steps * config["per_device_train_batch_size"]
    evaluated = config["max_evaluate_steps"] * config["per_device_eval_batch_size"]
    if name.startswith(texts.PREFIX):
        held_out = evaluated if evaluated > 0 else _HELD_OUT
        return _of_text(name, tokenizer, length, count, held_out, config["seed"])
    dataset = quantizing.dataset(config)
    encoder = Encoder(tokenizer, min(config["src_length"], length - 1), length)
    split = quantizing.calibration_split(dataset)
    # Records are shuffled, and not rows, so that only those are tokenized that are wanted.
    chosen = list(records.read(dataset, split)) if count else []
    random.Random(config["seed"]).shuffle(chosen)
    rows = list(islice(_encoded(encoder, chosen), count))
    rest = _encoded(encoder, records.read(dataset, "dev"))
    return Texts(
        _rows(_source(dataset, split), rows) if count else None,
        _rows(_source(dataset, "dev"), list(islice(rest, evaluated if evaluated > 0 else None))),
    )


def _source(dataset: Dataset, split: str) -> str:
    return ", ".join(map(str, records.paths_of(dataset, split)))


def _encoded(encoder: Encoder, records_read: Iterable[records.Record]) -> Iterator[tuple[int, ...]]:
    for record in records_read:
        example, _ = encoder.encode(record)
        # Its last label is the token behind its last one.
        row = (*example.input_ids, *example.labels[-1:])
        if len(row) >= _LEAST and row[-1] >= 0:
            yield row


def _of_text(name: str, tokenizer: Any, length: int, count: int, held_out: int, seed: int) -> Texts:
    paths = list(texts.find(name).files())
    random.Random(seed).shuffle(paths)
    parts: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
    counts = (count, held_out)
    for number, path in enumerate(paths):
        part = number % 2
        if len(parts[part]) == counts[part]:
            part = 1 - part
        if len(parts[part]) == counts[part]:
            break
        begin = path.read_text(encoding="utf-8", errors="replace")[: length * _LONGEST_TOKEN]
        ids = tokenizer(begin)["input_ids"]
        # One row a document: many documents say more than a long one.
        if len(ids) >= _LEAST:
            parts[part].append(tuple(ids[:length]))
    calibration, rest = parts
    return Texts(
        _rows(f"{name}, one half", calibration) if count else None,
        _rows(f"{name}, the other half", rest),
    )


def _rows(source: str, rows: list[tuple[int, ...]]) -> Rows:
    if not rows:
        raise RequestError(
            "there is not a row of two tokens in it", where=source, remedy="give more text"
        )
    return Rows(source, tuple(rows))

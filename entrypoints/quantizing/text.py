"""Texts for calibration and evaluation, as rows of tokens."""

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

_HELD_OUT = 16  # held-out rows of a text without split
_LONGEST_TOKEN = 16  # characters per token; only the beginning of a text is tokenized
_LEAST = 2  # tokens per row: one to read, one to predict


@dataclass(frozen=True)
class Rows:
    """Rows of tokens.

    Args:
        source: the name of the file or text.
        rows: token IDs.
    """

    source: str
    rows: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """The number of tokens in all rows."""
        return sum(map(len, self.rows))

    def steps(self, size: int, count: int) -> Iterator[Sequence[tuple[int, ...]]]:
        """Yield the first ``count`` steps of ``size`` rows; the last may be smaller."""
        for begin in range(0, min(len(self.rows), size * count), size):
            yield self.rows[begin : begin + size]

    def described(self) -> dict[str, Any]:
        """Return the entry for the report."""
        return {"source": self.source, "rows": len(self.rows), "tokens": self.tokens}


@dataclass(frozen=True)
class Texts:
    """The texts of a quantization.

    Args:
        calibration: in the order of the steps; None if the method needs none.
        held_out: for the evaluation; of other documents.
    """

    calibration: Rows | None
    held_out: Rows


def read(config: Config, tokenizer: Any, context: int) -> Texts:
    """Return the rows for a configuration.

    Records of ``quant.json``, or else of ``train.json``, are used for calibration in upstream's
    random order, and those of ``dev.json`` are held out. The documents of a text alternate
    between the two parts.

    Args:
        config: of the job.
        tokenizer: the model's.
        context: the length of its context.

    Raises:
        RequestError: the data cannot be read or is too small.
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
    # Records are shuffled instead of rows, so that only the needed ones are tokenized.
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
        # The last label is the token after the last input.
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
        # One row per document: many documents are more representative than a long one.
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
            "the text has no row of two tokens", where=source, remedy="give more text"
        )
    return Rows(source, tuple(rows))

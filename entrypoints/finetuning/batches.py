"""Batches of rows: order, padding and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.finetuning.packing import Row, Rows
from entrypoints.training.data import IGNORED
from entrypoints.training.data_shard import DataShard
from paddle_stacks.errors import RequestError

__all__ = ["Batch", "Batches", "Padding", "collate"]

_GROUP = 16  # batches whose rows are sorted by length together


@dataclass(frozen=True)
class Padding:
    """The padding of rows to equal length.

    Args:
        token: the padding token's ID.
        multiple_of: lengths are rounded up to a multiple of this.
        length: a fixed length, or None for that of the longest row.
    """

    token: int
    multiple_of: int = 1
    length: int | None = None


@dataclass(frozen=True)
class Batch:
    """The input of one step.

    Logits are only needed at positions with a label, so a batch has the positions of its labels
    instead of a label for every position.

    Args:
        input_ids: [rows, length], int64.
        answers: the positions of the labels in the flattened ``input_ids``; [labels], int64.
        targets: the token at each of these positions; [labels], int64.
        position_ids: [rows, length], int64, or None for 0, 1, 2, …
        attention_mask: [rows, length, length], bool, true if a position (second axis) attends
            to another (third axis), or None for causal attention.
        tokens: the number of tokens other than padding.
    """

    input_ids: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64] | None
    attention_mask: npt.NDArray[np.bool_] | None
    tokens: int


_WHOLE = DataShard()


def collate(rows: Sequence[Row], padding: Padding) -> Batch:
    """Return a batch of rows, padded on the right.

    A causal model does not attend to the right, so padding needs no mask. Packed rows need one,
    and positions that start at 0 in each conversation.
    """
    length = padding.length or max(map(len, rows))
    length = -(-length // padding.multiple_of) * padding.multiple_of
    ids = np.full((len(rows), length), padding.token, dtype=np.int64)
    labels = np.full((len(rows), length), IGNORED, dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = [token for e in row.examples for token in e.input_ids]
        labels[index, : len(row)] = [label for e in row.examples for label in e.labels]
    answers = np.flatnonzero(labels != IGNORED)
    packed = any(len(row.examples) > 1 for row in rows)
    positions, mask = _blocks(rows, length) if packed else (None, None)
    targets = labels.reshape(-1)[answers]
    return Batch(ids, answers, targets, positions, mask, sum(map(len, rows)))


def _blocks(
    rows: Sequence[Row], length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return positions and a block-diagonal causal mask for packed rows."""
    positions = np.zeros((len(rows), length), dtype=np.int64)
    mask = np.zeros((len(rows), length, length), dtype=np.bool_)
    for index, row in enumerate(rows):
        start = 0
        # Padding is a block too: softmax divides by zero at positions that attend to nothing.
        sizes = [len(e.input_ids) for e in row.examples] + [length - len(row)]
        for size in sizes:
            end = start + size
            positions[index, start:end] = np.arange(size)
            mask[index, start:end, start:end] = np.tri(size, dtype=np.bool_)
            start = end
    return positions, mask


class Batches:
    """The batches of an epoch, in an order that depends on its number and a seed.

    Therefore resumed training continues with the same rows. The rows of a batch have similar
    lengths: rows are sorted by length within groups of batches, and the batches are shuffled.

    Args:
        rows: all rows.
        size: rows per batch.
        padding: of the rows.
        seed: of the order; None keeps the order of ``rows``.
        accumulation: batches per optimizer step. An epoch has a whole number of steps, so some
            batches are unused, other ones in each epoch. Zero for evaluation, which uses all.
        convert: converts each batch.
        shard: of this process. Batches are assigned in turn, so a step of two processes equals
            one of a single process with twice the accumulation.

    Raises:
        RequestError: there are fewer batches than processes.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        size: int,
        padding: Padding,
        *,
        seed: int | None = None,
        accumulation: int = 0,
        convert: Callable[[Batch], Any] = lambda batch: batch,
        shard: DataShard = _WHOLE,
    ) -> None:
        self.rows = rows
        self._sizes = rows.sizes if isinstance(rows, Rows) else [len(row) for row in rows]
        self.epoch = 0
        self._size = size
        self._padding = padding
        self._seed = seed
        self._convert = convert
        self._shard = shard
        batches = -(-len(rows) // size)
        if not accumulation:
            self._batches = batches
            return
        whole = batches - batches % (accumulation * shard.world)
        self._batches = whole or batches - batches % shard.world
        if not self._batches:
            raise RequestError(
                f"{len(rows)} rows make {batches} batches, fewer than the {shard.world} processes",
                where="per_device_train_batch_size",
                remedy="use more records, smaller batches or fewer processes",
            )

    def __len__(self) -> int:
        return len(range(self._shard.rank, self._batches, self._shard.world))

    def __iter__(self) -> Iterator[Any]:
        dealt = self.order(self.epoch)[: self._batches]
        for chosen in dealt[self._shard.rank :: self._shard.world]:
            yield self._convert(collate([self.rows[index] for index in chosen], self._padding))

    def order(self, epoch: int) -> list[list[int]]:
        """Return the row numbers of each batch of an epoch."""
        size = self._size
        if self._seed is None:
            numbers = list(range(len(self.rows)))
            return [numbers[start : start + size] for start in range(0, len(numbers), size)]
        random = np.random.default_rng((self._seed, epoch))
        numbers = random.permutation(len(self.rows)).tolist()
        batches = []
        for start in range(0, len(numbers), size * _GROUP):
            group = sorted(
                numbers[start : start + size * _GROUP], key=lambda number: self._sizes[number]
            )
            batches += [group[first : first + size] for first in range(0, len(group), size)]
        return [batches[index] for index in random.permutation(len(batches))]

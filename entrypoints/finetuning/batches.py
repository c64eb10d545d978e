"""From rows to batches: order, padding, masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.finetuning.packing import Row, Rows
from entrypoints.training.data import IGNORED
from entrypoints.training.share import Share
from paddle_stacks.errors import RequestError

__all__ = ["Batch", "Batches", "Padding", "collate"]

_GROUP = 16  # batches whose rows are sorted by length before they are cut


@dataclass(frozen=True)
class Padding:
    """How the rows of a batch are made equally long.

    Args:
        token: the id to fill with.
        multiple_of: lengths are rounded up to a multiple of this.
        length: a fixed length, or None for the longest row's.
    """

    token: int
    multiple_of: int = 1
    length: int | None = None


@dataclass(frozen=True)
class Batch:
    """What the model reads in one step.

    The logits are wanted only where there is a label, so a batch has the places
    of its labels instead of a label for every place.

    Args:
        input_ids: [rows, length], int64.
        answers: the places of the labels in the flattened ``input_ids``; [labels], int64.
        targets: the token at each of these places; [labels], int64.
        position_ids: [rows, length], int64, or None for 0, 1, 2, …
        attention_mask: [rows, length, length], bool, true where a place (second
            axis) may see another (third axis), or None for all before it.
        tokens: tokens that are not padding.
    """

    input_ids: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64] | None
    attention_mask: npt.NDArray[np.bool_] | None
    tokens: int


_WHOLE = Share()


def collate(rows: Sequence[Row], padding: Padding) -> Batch:
    """Return the batch of some rows, padded on the right.

    A causal model does not look to the right, so padding needs no mask: no place
    that has a label sees it. Packed rows do need one, and positions that begin
    at 0 in each conversation.
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
        # Padding is a block of its own: a place that sees nothing makes softmax divide by zero.
        sizes = [len(e.input_ids) for e in row.examples] + [length - len(row)]
        for size in sizes:
            end = start + size
            positions[index, start:end] = np.arange(size)
            mask[index, start:end, start:end] = np.tri(size, dtype=np.bool_)
            start = end
    return positions, mask


class Batches:
    """The batches of an epoch, in an order that its number and a seed decide.

    So training that is resumed goes on with the rows it would have had. Rows of
    like length come together: within groups of some batches they are sorted by
    length, and the batches are shuffled again.

    Args:
        rows: what the batches are made of.
        size: rows in a batch.
        padding: how they are padded.
        seed: decides the order; None keeps the order of ``rows``.
        accumulation: batches in an optimizer step. An epoch has a whole number
            of steps: what is left over is not used in it (the next one has
            another order). Zero for evaluation, which uses everything.
        convert: what is made of each batch.
        share: of this process. The batches are dealt out one by one, so that a step of two
            processes is one of a single process with twice the accumulation.

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
        share: Share = _WHOLE,
    ) -> None:
        self.rows = rows
        self._sizes = rows.sizes if isinstance(rows, Rows) else [len(row) for row in rows]
        self.epoch = 0
        self._size = size
        self._padding = padding
        self._seed = seed
        self._convert = convert
        self._share = share
        batches = -(-len(rows) // size)
        if not accumulation:
            self._batches = batches
            return
        whole = batches - batches % (accumulation * share.world)
        self._batches = whole or batches - batches % share.world
        if not self._batches:
            raise RequestError(
                f"{len(rows)} rows make {batches} batches, fewer than the {share.world} processes "
                "that are to have one each",
                where="per_device_train_batch_size",
                remedy="more records, smaller batches, or fewer processes",
            )

    def __len__(self) -> int:
        return len(range(self._share.rank, self._batches, self._share.world))

    def __iter__(self) -> Iterator[Any]:
        dealt = self.order(self.epoch)[: self._batches]
        for chosen in dealt[self._share.rank :: self._share.world]:
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

"""Several conversations in one row of a batch, none of which sees another.

Upstream calls it zero padding. Its implementation makes each example's attention
mask while reading, and with a tokenizer that yields ``position_ids`` fails in
the reading thread; here a row knows the lengths of its conversations, and mask
and positions follow from them when a batch is made.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from entrypoints.training.data import Example

__all__ = ["Row", "pack", "rows"]


@dataclass(frozen=True)
class Row:
    """One row of a batch.

    Args:
        examples: the conversations in it, in order.
    """

    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return sum(len(example.input_ids) for example in self.examples)


def rows(examples: Iterable[Example]) -> tuple[Row, ...]:
    """Return a row for each example."""
    return tuple(Row((example,)) for example in examples)


def pack(examples: Sequence[Example], length: int, *, greedy: bool = False) -> tuple[Row, ...]:
    """Return rows of at most ``length`` tokens that hold all examples.

    Args:
        examples: none of them longer than ``length``.
        length: tokens in a row.
        greedy: whether to fill rows best, longest examples first, instead of
            in the order of the data.
    """
    return _best_fit(examples, length) if greedy else _in_order(examples, length)


def _in_order(examples: Iterable[Example], length: int) -> tuple[Row, ...]:
    packed: list[Row] = []
    held: list[Example] = []
    size = 0
    for example in examples:
        if held and size + len(example.input_ids) > length:
            packed.append(Row(tuple(held)))
            held, size = [], 0
        held.append(example)
        size += len(example.input_ids)
    return (*packed, Row(tuple(held))) if held else tuple(packed)


def _best_fit(examples: Sequence[Example], length: int) -> tuple[Row, ...]:
    packed: list[list[Example]] = []
    rooms: list[tuple[int, int]] = []  # free tokens and index of each row, ascending
    for example in sorted(examples, key=lambda example: -len(example.input_ids)):
        size = len(example.input_ids)
        place = bisect.bisect_left(rooms, (size, -1))
        room, index = rooms.pop(place) if place < len(rooms) else (length, len(packed))
        if index == len(packed):
            packed.append([])
        packed[index].append(example)
        bisect.insort(rooms, (room - size, index))
    return tuple(Row(tuple(held)) for held in packed)

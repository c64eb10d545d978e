"""Packing of several conversations into one row, without attention between them.

Upstream calls it zero padding. Its implementation creates each example's attention mask while
reading, and fails in the reading thread with tokenizers that return ``position_ids``. Here mask
and positions are computed from the lengths of the conversations when a batch is created.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from entrypoints.training.data import Example, ExampleFile

__all__ = ["Row", "Rows", "pack", "rows"]


@dataclass(frozen=True)
class Row:
    """One row of a batch.

    Args:
        examples: the conversations in it, in order.
    """

    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return sum(len(example.input_ids) for example in self.examples)


class Rows(Sequence[Row]):
    """Rows that are put together when they are read.

    Args:
        examples: the conversations of all rows.
        groups: the numbers of the examples of each row; None for a row of each example.
    """

    def __init__(
        self, examples: Sequence[Example], groups: Sequence[Sequence[int]] | None = None
    ) -> None:
        self._examples = examples
        self._groups = groups
        sizes = _lengths(examples)
        self.sizes = sizes if groups is None else [sum(sizes[n] for n in group) for group in groups]
        """The tokens of each row."""

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: Any) -> Any:
        number = range(len(self))[index]
        group = (number,) if self._groups is None else self._groups[number]
        return Row(tuple(self._examples[each] for each in group))


def rows(examples: Sequence[Example]) -> Rows:
    """Return a row for each example."""
    return Rows(examples)


def pack(examples: Sequence[Example], length: int, *, greedy: bool = False) -> Rows:
    """Return rows of at most ``length`` tokens that hold all examples.

    Args:
        examples: none of them longer than ``length``.
        length: tokens in a row.
        greedy: whether to use best fit, longest examples first, instead of the order of the
            data.
    """
    sizes = _lengths(examples)
    return Rows(examples, _best_fit(sizes, length) if greedy else _in_order(sizes, length))


def _lengths(examples: Sequence[Example]) -> list[int]:
    if isinstance(examples, ExampleFile):
        return examples.lengths
    return [len(example.input_ids) for example in examples]


def _in_order(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Return the numbers of the examples of each row, in their order."""
    groups: list[list[int]] = []
    room = 0
    for number, size in enumerate(sizes):
        if not groups or size > room:
            groups.append([])
            room = length
        groups[-1].append(number)
        room -= size
    return groups


def _best_fit(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Return the numbers of the examples of each row, the longest examples first."""
    groups: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # free tokens and index of each row, ascending
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        size = sizes[number]
        place = bisect.bisect_left(rooms, (size, -1))
        room, index = rooms.pop(place) if place < len(rooms) else (length, len(groups))
        if index == len(groups):
            groups.append([])
        groups[index].append(number)
        bisect.insort(rooms, (room - size, index))
    return groups

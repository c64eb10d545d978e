"""The part of the training data that one process reads."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Share"]


@dataclass(frozen=True)
class Share:
    """The part of all batches that a process has.

    Args:
        rank: which part, from 0.
        world: how many parts there are: the processes that see different data.
    """

    rank: int = 0
    world: int = 1

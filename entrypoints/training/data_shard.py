"""The part of the training data that one process reads."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DataShard"]


@dataclass(frozen=True)
class DataShard:
    """The part of the batches that one process reads.

    Args:
        rank: the number of the part, from 0.
        world: the number of parts, which is that of processes that read different data.
    """

    rank: int = 0
    world: int = 1

"""Every layout of so many cards that divides a model, ranked, and those nearest to a bad one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paddle_stacks.jobs.architecture import Architecture
from paddle_stacks.memory.estimate import Work, plan
from paddle_stacks.memory.grid import Grid, every
from paddle_stacks.memory.schedule import bubble

__all__ = ["Candidate", "nearest", "search"]


@dataclass(frozen=True)
class Candidate:
    """A layout that divides the model.

    Args:
        grid: the layout.
        size: bytes of its fullest rank.
        fits: whether a card has that much.
        bubble: the part of a step that a stage waits, relative to its work.
        cost: what it is ranked by, smaller first; see :func:`search`.
    """

    grid: Grid
    size: int
    fits: bool
    bubble: float
    cost: tuple[float, ...]


def search(
    model: Architecture, work: Work, cards: int, memory: int, per_node: int = 8
) -> tuple[Candidate, ...]:
    """Return every layout of so many cards that divides a model, the best first.

    Those that fit come first. Then tensor parallelism inside a machine, because it
    sends twice a layer and direction what a pipeline sends once a stage (Narayanan et
    al. 2021, arXiv:2104.04473, takeaway 1); then by how much is sent and waited: the
    bubble, ``tensor - 1`` and the sharding's stage; then by memory.

    Args:
        model: the shape.
        work: what is computed.
        cards: ranks.
        memory: bytes of a card.
        per_node: cards of a machine.
    """
    found = []
    for grid in every(model, cards, work.micro_batches):
        if work.method == "inference" and (grid.sharding > 1 or grid.virtual > 1):
            continue  # there is no optimizer to share, and no backward pass to interleave
        size = max(each.size for each in plan(model, work, grid))
        waits = bubble(grid.pipeline, work.micro_batches, grid.virtual)
        sends = 0.1 * (grid.tensor - 1) + 0.1 * max(0, grid.stage - 1) + 0.02 * (grid.virtual - 1)
        fits = size <= memory
        cost = (not fits, grid.tensor > per_node, round(waits + sends, 4) if fits else size, size)
        found.append(Candidate(grid, size, fits, waits, cost))
    return tuple(sorted(found, key=lambda each: each.cost))


def nearest(found: Sequence[Candidate], wanted: Grid, count: int = 3) -> tuple[Candidate, ...]:
    """Return the layouts that fit and differ least from the one that was asked for.

    Args:
        found: of :func:`search`, the best first.
        wanted: what was asked for.
        count: how many.
    """

    def distance(other: Grid) -> int:
        """Count halvings and doublings from one layout to the other."""
        return sum(
            abs(getattr(wanted, name).bit_length() - getattr(other, name).bit_length())
            for name in ("tensor", "pipeline", "virtual", "sharding", "stage")
        )

    return tuple(sorted((c for c in found if c.fits), key=lambda c: distance(c.grid))[:count])

"""Every layout of so many cards that divides a model, ranked, and those nearest to a bad one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paddle_stacks.jobs.architecture import Architecture
from paddle_stacks.jobs.layout import Layout
from paddle_stacks.memory.estimate import Work, plan
from paddle_stacks.memory.layouts import every
from paddle_stacks.memory.schedule import bubble

__all__ = ["Candidate", "nearest", "search"]


@dataclass(frozen=True)
class Candidate:
    """A layout that divides the model.

    Args:
        layout: the layout.
        size: bytes of its fullest rank.
        fits: whether a card has that much.
        bubble: the part of a step that a stage waits, relative to its work.
        cost: what it is ranked by, smaller first; see :func:`search`.
    """

    layout: Layout
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
    for layout in every(model, cards, work.micro_batches):
        if work.method == "inference" and (layout.sharding > 1 or layout.virtual > 1):
            continue  # there is no optimizer to share, and no backward pass to interleave
        size = max(each.size for each in plan(model, work, layout))
        waits = bubble(layout.pipeline, work.micro_batches, layout.virtual)
        sends = (
            0.1 * (layout.tensor - 1) + 0.1 * max(0, layout.stage - 1) + 0.02 * (layout.virtual - 1)
        )
        fits = size <= memory
        cost = (not fits, layout.tensor > per_node, round(waits + sends, 4) if fits else size, size)
        found.append(Candidate(layout, size, fits, waits, cost))
    return tuple(sorted(found, key=lambda each: each.cost))


def nearest(found: Sequence[Candidate], wanted: Layout, count: int = 3) -> tuple[Candidate, ...]:
    """Return the layouts that fit and differ least from the one that was asked for.

    Args:
        found: of :func:`search`, the best first.
        wanted: what was asked for.
        count: how many.
    """

    def distance(other: Layout) -> int:
        """Count halvings and doublings from one layout to the other."""
        return sum(
            abs(getattr(wanted, name).bit_length() - getattr(other, name).bit_length())
            for name in ("tensor", "pipeline", "virtual", "sharding", "stage")
        )

    return tuple(sorted((c for c in found if c.fits), key=lambda c: distance(c.layout))[:count])

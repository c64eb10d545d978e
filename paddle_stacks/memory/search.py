"""Rank the layouts that divide a model, and find those nearest to one that does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paddle_stacks.jobs.layout import Layout
from paddle_stacks.jobs.llama_config import LlamaConfig
from paddle_stacks.memory.estimate import Workload, plan
from paddle_stacks.memory.layouts import all_layouts
from paddle_stacks.memory.schedule import bubble

__all__ = ["Candidate", "nearest", "search"]


@dataclass(frozen=True)
class Candidate:
    """A layout that divides the model.

    Args:
        layout: the layout.
        size: bytes of the rank that needs most.
        fits: whether that fits into a card's memory.
        bubble: a stage's idle time relative to its computing time.
        cost: sort key, smaller is better; see :func:`search`.
    """

    layout: Layout
    size: int
    fits: bool
    bubble: float
    cost: tuple[float, ...]


def search(
    model: LlamaConfig, work: Workload, cards: int, memory: int, per_node: int = 8
) -> tuple[Candidate, ...]:
    """Return all layouts for a number of cards that divide a model, best first.

    Layouts that fit come first. Among them, those with tensor parallelism inside one
    machine, because it sends twice per layer and direction what a pipeline sends once per
    stage (Narayanan et al. 2021, arXiv:2104.04473, takeaway 1); then by communication and
    idle time: the bubble, ``tensor - 1`` and the sharding stage; then by memory.

    Args:
        model: the model's architecture.
        work: the workload.
        cards: number of ranks.
        memory: bytes per card.
        per_node: cards per machine.
    """
    candidates = []
    for layout in all_layouts(model, cards, work.micro_batches):
        if work.method == "inference" and (layout.sharding > 1 or layout.virtual > 1):
            continue  # inference has no optimizer to shard and no backward pass to interleave
        size = max(each.size for each in plan(model, work, layout))
        idle = bubble(layout.pipeline, work.micro_batches, layout.virtual)
        communication = (
            0.1 * (layout.tensor - 1) + 0.1 * max(0, layout.stage - 1) + 0.02 * (layout.virtual - 1)
        )
        fits = size <= memory
        time = round(idle + communication, 4)
        cost = (not fits, layout.tensor > per_node, time if fits else size, size)
        candidates.append(Candidate(layout, size, fits, idle, cost))
    return tuple(sorted(candidates, key=lambda each: each.cost))


def nearest(
    candidates: Sequence[Candidate], layout: Layout, count: int = 3
) -> tuple[Candidate, ...]:
    """Return the layouts that fit and differ least from another one.

    Args:
        candidates: from :func:`search`, best first.
        layout: the layout to compare with.
        count: how many to return.
    """

    def distance(other: Layout) -> int:
        """Count the halvings and doublings between the two layouts."""
        return sum(
            abs(getattr(layout, name).bit_length() - getattr(other, name).bit_length())
            for name in ("tensor", "pipeline", "virtual", "sharding", "stage")
        )

    return tuple(
        sorted((c for c in candidates if c.fits), key=lambda c: distance(c.layout))[:count]
    )

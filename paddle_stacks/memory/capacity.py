"""The number of requests of a length that fit into the memory of a number of cards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from paddle_stacks.jobs.layout import Layout, problems
from paddle_stacks.jobs.llama_config import LlamaConfig
from paddle_stacks.memory.estimate import Workload, plan

__all__ = ["CARDS", "Capacity", "capacities", "most_requests"]

CARDS = (1, 2, 4, 8)
"""Numbers of cards; all of them share the model (tensor parallelism)."""
_LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_MAX_REQUESTS = 2**16


@dataclass(frozen=True)
class Capacity:
    """The requests that fit at the same time.

    Args:
        tokens: tokens of each request, prompt and answer together.
        requests: the maximum, by the number of cards; cards that cannot divide the model
            are omitted.
    """

    tokens: int
    requests: dict[int, int]


def capacities(model: LlamaConfig, work: Workload, memory: int) -> tuple[Capacity, ...]:
    """Return the capacity for the usual lengths up to the model's positions.

    Args:
        model: the model's architecture.
        work: an inference; its ``batch`` and ``sequence`` are not used.
        memory: bytes per card.
    """
    return tuple(
        Capacity(
            tokens,
            {
                cards: most_requests(model, replace(work, sequence=tokens), cards, memory)
                for cards in CARDS
                if not problems(model, Layout(tensor=cards), 1)
            },
        )
        for tokens in _lengths(model.max_position_embeddings)
    )


def most_requests(model: LlamaConfig, work: Workload, cards: int, memory: int) -> int:
    """Return the largest batch that fits; 0 if not even one request fits.

    Args:
        model: the model's architecture.
        work: an inference; its ``sequence`` is the length of each request.
        cards: number of cards, which divides the model.
        memory: bytes per card.
    """

    def fits(requests: int) -> bool:
        size = plan(model, replace(work, batch=requests), Layout(tensor=cards))[0].size
        return size <= memory

    low, high = 0, 1
    while high <= _MAX_REQUESTS and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _lengths(context: int) -> Iterator[int]:
    yield from (length for length in _LENGTHS if length < context)
    yield context

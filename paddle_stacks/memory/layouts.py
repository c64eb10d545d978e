"""Parse ``--layout``, and enumerate the layouts of a number of cards."""

from __future__ import annotations

from collections.abc import Iterator

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs.layout import NAMES, Layout, divisors, problems
from paddle_stacks.jobs.llama_config import LlamaConfig

__all__ = ["all_layouts", "parse"]

_MAX_CARDS = 65536


def parse(text: str, cards: int) -> Layout:
    """Parse a layout such as ``tp=2,pp=4``; the remaining cards are data parallel.

    Args:
        text: ``NAME=NUMBER``, separated by commas; empty for data parallelism only.
        cards: number of cards.

    Raises:
        RequestError: not such a list, or it does not match the number of cards.
    """
    where, degrees = f"--layout {text}", dict[str, int]()
    faults: list[Problem] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = (each.strip() for each in part.partition("="))
        if name not in NAMES:
            remedy = f"{did_you_mean(name, NAMES)} degrees: {', '.join(NAMES)}".strip()
            faults.append(Problem(f'unknown degree "{name}"', where, remedy))
        elif not (equals and value.isascii() and value.isdecimal() and len(value) < 6):
            message = f'expected {name}=NUMBER, got "{part}"'
            faults.append(Problem(message, where, f"--layout {name}=2"))
        elif name in degrees:
            faults.append(Problem(f'"{name}" is repeated', where, "keep one of them"))
        else:
            degrees[name] = int(value)
            faults += _range(name, degrees[name], where)
    if not 1 <= cards <= _MAX_CARDS:
        message = f"expected 1 to {_MAX_CARDS} cards, got {cards}"
        faults.append(Problem(message, "--cards", "--cards 8"))
    if faults:
        raise RequestError(faults)
    if degrees.get("sharding", 1) > 1:
        degrees.setdefault("stage", 1)
    fixed = degrees.get("tp", 1) * degrees.get("pp", 1)
    if cards % fixed or cards < fixed:
        message = f"{cards} cards cannot be divided into groups of {fixed} ({text})"
        remedy = f"use {max(1, cards // fixed) * fixed} cards, or degrees that divide {cards}"
        raise RequestError(message, where=where, remedy=remedy)
    if degrees.get("stage") and "sharding" not in degrees:
        degrees["sharding"] = cards // fixed // degrees.get("dp", 1) or 1  # as upstream: the rest
    fixed *= degrees.get("sharding", 1)
    if "dp" not in degrees:
        degrees["dp"] = max(1, cards // fixed)
    layout = Layout(**{NAMES[name]: value for name, value in degrees.items()})
    if layout.world != cards:
        message = f"{text or layout} needs {layout.world} cards, got {cards}"
        raise RequestError(message, where=where, remedy=f"--cards {layout.world}, or remove dp")
    return layout


def all_layouts(model: LlamaConfig, cards: int, micro_batches: int = 1) -> Iterator[Layout]:
    """Yield all layouts for a number of cards that divide the model.

    Args:
        model: the model's architecture.
        cards: number of ranks.
        micro_batches: micro-batches per step.
    """
    for tensor in divisors(cards):
        for pipeline in divisors(cards // tensor):
            if model.num_hidden_layers % pipeline:
                continue
            rest = cards // tensor // pipeline
            for virtual in divisors(model.num_hidden_layers // pipeline):
                # More than four chunks cost more communication than they save in bubble.
                if virtual > 4:
                    break
                for sharding in divisors(rest):
                    for stage in (1, 2, 3) if sharding > 1 else (0,):
                        layout = Layout(
                            rest // sharding, tensor, pipeline, virtual, sharding, stage
                        )
                        if not problems(model, layout, micro_batches):
                            yield layout


def _range(name: str, value: int, where: str) -> list[Problem]:
    low, high = {"stage": (0, 3), "sp": (0, 1)}.get(name, (1, _MAX_CARDS))
    if low <= value <= high:
        return []
    return [
        Problem(f"{name}: expected {low} to {high}, got {value}", where, f"--layout {name}={high}")
    ]

"""Layouts as a person writes them, and all that a number of cards has."""

from __future__ import annotations

from collections.abc import Iterator

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs.architecture import Architecture
from paddle_stacks.jobs.layout import NAMES, Layout, divisors, problems

__all__ = ["every", "parse"]

_MOST = 65536  # cards; more than any machine has


def parse(text: str, cards: int) -> Layout:
    """Return the layout that ``tp=2,pp=4`` names; what is left of the cards is data parallel.

    Args:
        text: ``NAME=NUMBER``, separated by commas; empty for nothing but data parallelism.
        cards: how many there are.

    Raises:
        RequestError: it is not such a list, or does not make up that many cards.
    """
    where, found = f"--layout {text}", dict[str, int]()
    told: list[Problem] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = (each.strip() for each in part.partition("="))
        if name not in NAMES:
            remedy = f"{did_you_mean(name, NAMES)} known: {', '.join(NAMES)}".strip()
            told.append(Problem(f'a layout has no "{name}"', where, remedy))
        elif not (equals and value.isascii() and value.isdecimal() and len(value) < 6):
            told.append(Problem(f'"{part}" is not {name}=NUMBER', where, f"write {name}=2"))
        elif name in found:
            told.append(Problem(f'"{name}" is there twice', where, "keep one of them"))
        else:
            found[name] = int(value)
            told += _range(name, found[name], where)
    if not 1 <= cards <= _MOST:
        told.append(Problem(f"{cards} is not a number of cards", "--cards", f"1 to {_MOST}"))
    if told:
        raise RequestError(told)
    if found.get("sharding", 1) > 1:
        found.setdefault("stage", 1)
    fixed = found.get("tp", 1) * found.get("pp", 1)
    if cards % fixed or cards < fixed:
        what = f"{cards} cards cannot be divided into groups of {fixed} ({text})"
        remedy = f"use {max(1, cards // fixed) * fixed} cards, or degrees that divide {cards}"
        raise RequestError(what, where=where, remedy=remedy)
    if found.get("stage") and "sharding" not in found:
        found["sharding"] = cards // fixed // found.get("dp", 1) or 1  # as upstream: what is left
    fixed *= found.get("sharding", 1)
    if "dp" not in found:
        found["dp"] = max(1, cards // fixed)
    layout = Layout(**{NAMES[name]: value for name, value in found.items()})
    if layout.world != cards:
        what = f"{text or layout} makes up {layout.world} cards, and there are {cards}"
        raise RequestError(what, where=where, remedy=f"--cards {layout.world}, or leave dp out")
    return layout


def every(model: Architecture, cards: int, micro_batches: int = 1) -> Iterator[Layout]:
    """Yield every layout of so many cards that divides the model.

    Args:
        model: what is divided.
        cards: ranks.
        micro_batches: of a step.
    """
    for tensor in divisors(cards):
        for pipeline in divisors(cards // tensor):
            if model.layers % pipeline:
                continue
            rest = cards // tensor // pipeline
            for virtual in divisors(model.layers // pipeline):
                # More chunks than four cost more sending than the bubble they save.
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
    low, high = {"stage": (0, 3), "sp": (0, 1)}.get(name, (1, _MOST))
    if low <= value <= high:
        return []
    return [
        Problem(f"{name} is {value}, not {low} to {high}", where, f"{name}={low} to {name}={high}")
    ]

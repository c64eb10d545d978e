"""Layouts: how a model is spread over ranks, and which of them a model can be divided into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs.architecture import Architecture

__all__ = ["Grid", "divisors", "every", "parse", "problems"]

_NAMES = {
    "dp": "data",
    "tp": "tensor",
    "pp": "pipeline",
    "vpp": "virtual",
    "sharding": "sharding",
    "stage": "stage",
    "sp": "sequence_parallel",
}
_MOST = 65536  # cards; more than any machine has


@dataclass(frozen=True)
class Grid:
    """A layout; ``world = data * sharding * tensor * pipeline``.

    Args:
        data: copies of the model whose gradients are averaged.
        tensor: parts of every matrix.
        pipeline: stages of the layers.
        virtual: chunks of layers on each stage (interleaved schedule).
        sharding: ranks that the optimizer's state is spread over.
        stage: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 weights too.
        sequence_parallel: 1 where what is outside the matrices is split by ``tensor`` too.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    virtual: int = 1
    sharding: int = 1
    stage: int = 0
    sequence_parallel: int = 0

    @property
    def world(self) -> int:
        """How many ranks it takes."""
        return self.data * self.tensor * self.pipeline * self.sharding

    def __str__(self) -> str:
        parts = [
            f"{short}={getattr(self, name)}"
            for short, name in _NAMES.items()
            if getattr(self, name) > (0 if short in ("stage", "sp") else 1)
        ]
        return ",".join(parts) or "dp=1"


def parse(text: str, cards: int) -> Grid:
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
        if name not in _NAMES:
            remedy = f"{did_you_mean(name, _NAMES)} known: {', '.join(_NAMES)}".strip()
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
    grid = Grid(**{_NAMES[name]: value for name, value in found.items()})
    if grid.world != cards:
        what = f"{text or grid} makes up {grid.world} cards, and there are {cards}"
        raise RequestError(what, where=where, remedy=f"--cards {grid.world}, or leave dp out")
    return grid


def problems(model: Architecture, grid: Grid, micro_batches: int = 1) -> list[Problem]:
    """Return why a model cannot be divided so; each entry names the values that can.

    Args:
        model: what is divided.
        grid: how.
        micro_batches: of a step, for the interleaved schedule.
    """
    told: list[Problem] = []
    chunks = grid.pipeline * grid.virtual
    if model.layers % chunks:
        what = f"{model.layers} layers cannot be divided into {chunks} equal chunks (pp x vpp)"
        told.append(Problem(what, "pp", f"pp x vpp: {_list(divisors(model.layers))}"))
    for what, size in (
        ("heads", model.heads),
        ("kv heads", model.kv_heads),
        ("tokens of the vocabulary", model.vocabulary),
        ("columns of the inner layer", model.inner),
    ):
        if size % grid.tensor:
            small = [n for n in divisors(size) if n <= 64]
            said = f"{size} {what} cannot be divided by tp={grid.tensor}"
            told.append(Problem(said, "tp", f"tp: {_list(small)}"))
    if grid.virtual > 1 and grid.pipeline == 1:
        told.append(Problem("virtual stages need a pipeline", "vpp", "pp=2 or more, or vpp=1"))
    elif grid.virtual > 1 and micro_batches % grid.pipeline:
        what = f"{micro_batches} micro-batches are not divided by pp={grid.pipeline}"
        remedy = "an interleaved schedule goes in rounds: gradient_accumulation_steps"
        told.append(Problem(what, "vpp", f"{remedy} a multiple of {grid.pipeline}"))
    if grid.stage == 0 and grid.sharding > 1:
        told.append(Problem("sharding of nothing", "stage", "stage=1, 2 or 3"))
    if grid.stage > 1 and grid.pipeline > 1:
        what = f"sharding stage {grid.stage} does not go with a pipeline in PaddleNLP"
        told.append(Problem(what, "stage", "stage=1, or pp=1"))
    if grid.stage > 1 and grid.sharding == 1:
        told.append(Problem("one rank cannot share with itself", "sharding", "sharding=2 or more"))
    if grid.sequence_parallel and grid.tensor == 1:
        told.append(Problem("sequence parallelism needs tp", "sp", "tp=2 or more, or leave sp out"))
    return told


def every(model: Architecture, cards: int, micro_batches: int = 1) -> Iterator[Grid]:
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
                        grid = Grid(rest // sharding, tensor, pipeline, virtual, sharding, stage)
                        if not problems(model, grid, micro_batches):
                            yield grid


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending."""
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _range(name: str, value: int, where: str) -> list[Problem]:
    low, high = {"stage": (0, 3), "sp": (0, 1)}.get(name, (1, _MOST))
    if low <= value <= high:
        return []
    return [Problem(f"{name} is {value}, not {low} to {high}", where)]


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))

"""How a model is spread over processes, and which layouts it can be divided into."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from paddle_stacks.errors import Problem
from paddle_stacks.jobs.llama_config import LlamaConfig

if TYPE_CHECKING:
    from paddle_stacks.jobs.upstream import Options

__all__ = ["NAMES", "Layout", "divisors", "problems"]

NAMES = {
    "dp": "data",
    "tp": "tensor",
    "pp": "pipeline",
    "vpp": "virtual",
    "sharding": "sharding",
    "stage": "stage",
    "sp": "sequence_parallel",
}
"""What a layout's degrees are called for short, and its fields."""


@dataclass(frozen=True)
class Layout:
    """How a model is spread over processes, one on each card.

    Args:
        data: copies of the model whose gradients are averaged.
        tensor: parts of every matrix.
        pipeline: stages of the layers.
        virtual: chunks of layers on each stage (interleaved schedule).
        sharding: processes that the optimizer's state is spread over.
        stage: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 weights too.
        sequence_parallel: 1 where what is outside the matrices is split by ``tensor`` too.
        other: sequence and context parallelism together, upstream's ``sep`` and ``context``.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    virtual: int = 1
    sharding: int = 1
    stage: int = 0
    sequence_parallel: int = 0
    other: int = 1

    @classmethod
    def of(cls, found: Options, world: int) -> Layout:
        """Return the layout that upstream's options make of so many processes.

        Where they do not make up that many, ``upstream.layout_faults`` says so.
        """
        tensor, pipeline, sep, context = (
            max(1, found.number(f"{key}_parallel_degree", 1))
            for key in ("tensor", "pipeline", "sep", "context")
        )
        stage = next((n for n in (3, 2, 1) if f"stage{n}" in found.text("sharding")), 0)
        sharding = found.number("sharding_parallel_degree", -1) if stage else 1
        if sharding < 1:  # as upstream: all that is left
            sharding = max(1, world // (tensor * pipeline * sep * context))
        made = cls(
            tensor=tensor,
            pipeline=pipeline,
            virtual=max(1, found.number("virtual_pp_degree", 1)),
            sharding=sharding,
            stage=stage if sharding > 1 else 0,
            sequence_parallel=int(found.on("sequence_parallel")),
            other=sep * context,
        )
        return replace(made, data=max(1, world // made.least))

    @property
    def least(self) -> int:
        """How many processes one copy of the model takes."""
        return self.tensor * self.pipeline * self.sharding * self.other

    @property
    def world(self) -> int:
        """How many processes it takes."""
        return self.data * self.least

    def __str__(self) -> str:
        parts = [
            f"{short}={getattr(self, name)}"
            for short, name in NAMES.items()
            if getattr(self, name) > (0 if short in ("stage", "sp") else 1)
        ]
        return ",".join(parts) or "dp=1"


def problems(model: LlamaConfig, layout: Layout, micro_batches: int = 1) -> list[Problem]:
    """Return why a model cannot be divided so; each entry names the values that can.

    Args:
        model: what is divided.
        layout: how.
        micro_batches: of a step, for the interleaved schedule.
    """
    told: list[Problem] = []
    chunks = layout.pipeline * layout.virtual
    if model.num_hidden_layers % chunks:
        layers = model.num_hidden_layers
        what = f"{layers} layers cannot be divided into {chunks} equal chunks (pp x vpp)"
        told.append(Problem(what, "pp", f"pp x vpp: {_list(divisors(layers))}"))
    for what, size in (
        ("heads", model.num_attention_heads),
        ("kv heads", model.num_key_value_heads),
        ("tokens of the vocabulary", model.vocab_size),
        ("columns of the inner layer", model.intermediate_size),
    ):
        if size % layout.tensor:
            small = [n for n in divisors(size) if n <= 64]
            said = f"{size} {what} cannot be divided by tp={layout.tensor}"
            told.append(Problem(said, "tp", f"tp: {_list(small)}"))
    if layout.virtual > 1 and layout.pipeline == 1:
        told.append(Problem("virtual stages need a pipeline", "vpp", "pp=2 or more, or vpp=1"))
    elif layout.virtual > 1 and micro_batches % layout.pipeline:
        what = f"{micro_batches} micro-batches are not divided by pp={layout.pipeline}"
        remedy = "an interleaved schedule goes in rounds: gradient_accumulation_steps"
        told.append(Problem(what, "vpp", f"{remedy} a multiple of {layout.pipeline}"))
    if layout.stage == 0 and layout.sharding > 1:
        told.append(Problem("sharding of nothing", "stage", "stage=1, 2 or 3"))
    if layout.stage > 1 and layout.pipeline > 1:
        what = f"sharding stage {layout.stage} does not go with a pipeline in PaddleNLP"
        told.append(Problem(what, "stage", "stage=1, or pp=1"))
    if layout.stage > 1 and layout.sharding == 1:
        told.append(Problem("one rank cannot share with itself", "sharding", "sharding=2 or more"))
    if layout.sequence_parallel and layout.tensor == 1:
        told.append(Problem("sequence parallelism needs tp", "sp", "tp=2 or more, or leave sp out"))
    return told


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending."""
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))

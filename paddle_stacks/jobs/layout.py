"""Parallel layouts of a model: degrees of parallelism, and whether they divide the model."""

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
"""Short names of a layout's degrees, and its fields."""


@dataclass(frozen=True)
class Layout:
    """Degrees of parallelism; each process has one device.

    Args:
        data: data parallelism: copies of the model whose gradients are averaged.
        tensor: tensor parallelism: parts of every matrix.
        pipeline: pipeline stages.
        virtual: chunks of layers per stage (interleaved schedule).
        sharding: processes that share the optimizer state.
        stage: sharding stage: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too.
        sequence_parallel: 1 to split activations between the matrices by ``tensor`` too.
        other: product of upstream's ``sep`` and ``context`` degrees.
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
    def of(cls, options: Options, world: int) -> Layout:
        """Return the layout of upstream's options for a number of processes.

        ``upstream.layout_faults`` reports degrees that do not divide that number.
        """
        tensor, pipeline, sep, context = (
            max(1, options.number(f"{key}_parallel_degree", 1))
            for key in ("tensor", "pipeline", "sep", "context")
        )
        stage = next((n for n in (3, 2, 1) if f"stage{n}" in options.text("sharding")), 0)
        sharding = options.number("sharding_parallel_degree", -1) if stage else 1
        if sharding < 1:  # as upstream: all remaining ones
            sharding = max(1, world // (tensor * pipeline * sep * context))
        layout = cls(
            tensor=tensor,
            pipeline=pipeline,
            virtual=max(1, options.number("virtual_pp_degree", 1)),
            sharding=sharding,
            stage=stage if sharding > 1 else 0,
            sequence_parallel=int(options.on("sequence_parallel")),
            other=sep * context,
        )
        return replace(layout, data=max(1, world // layout.least))

    @property
    def least(self) -> int:
        """Number of processes for one copy of the model."""
        return self.tensor * self.pipeline * self.sharding * self.other

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.data * self.least

    def __str__(self) -> str:
        parts = [
            f"{short}={getattr(self, name)}"
            for short, name in NAMES.items()
            if getattr(self, name) > (0 if short in ("stage", "sp") else 1)
        ]
        return ",".join(parts) or "dp=1"


def problems(model: LlamaConfig, layout: Layout, micro_batches: int = 1) -> list[Problem]:
    """Return why a layout cannot divide a model, with the degrees that can.

    Args:
        model: the model's configuration.
        layout: the layout.
        micro_batches: micro-batches per step, for the interleaved schedule.
    """
    problems: list[Problem] = []
    chunks = layout.pipeline * layout.virtual
    if model.num_hidden_layers % chunks:
        layers = model.num_hidden_layers
        message = f"{layers} layers cannot be divided into {chunks} equal chunks (pp x vpp)"
        problems.append(Problem(message, "pp", f"pp x vpp: {_list(divisors(layers))}"))
    for label, size in (
        ("heads", model.num_attention_heads),
        ("KV heads", model.num_key_value_heads),
        ("tokens of the vocabulary", model.vocab_size),
        ("columns of the MLP (intermediate_size)", model.intermediate_size),
    ):
        if size % layout.tensor:
            small = [n for n in divisors(size) if n <= 64]
            message = f"{size} {label} cannot be divided by tp={layout.tensor}"
            problems.append(Problem(message, "tp", f"tp: {_list(small)}"))
    if layout.virtual > 1 and layout.pipeline == 1:
        message = "virtual stages require a pipeline"
        problems.append(Problem(message, "vpp", "pp=2 or more, or vpp=1"))
    elif layout.virtual > 1 and micro_batches % layout.pipeline:
        message = f"{micro_batches} micro-batches are not a multiple of pp={layout.pipeline}"
        remedy = f"gradient_accumulation_steps must be a multiple of {layout.pipeline}"
        problems.append(Problem(message, "vpp", remedy))
    if layout.stage == 0 and layout.sharding > 1:
        problems.append(Problem("sharding requires a stage", "stage", "stage=1, 2 or 3"))
    if layout.stage > 1 and layout.pipeline > 1:
        message = f"PaddleNLP cannot combine sharding stage {layout.stage} with a pipeline"
        problems.append(Problem(message, "stage", "stage=1, or pp=1"))
    if layout.stage > 1 and layout.sharding == 1:
        message = f"sharding stage {layout.stage} requires more than one rank"
        problems.append(Problem(message, "sharding", "sharding=2 or more"))
    if layout.sequence_parallel and layout.tensor == 1:
        message = "sequence parallelism requires tensor parallelism"
        problems.append(Problem(message, "sp", "tp=2 or more, or remove sp"))
    return problems


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending."""
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))

"""Disk space, device memory and time that a recipe needs, from its model and its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.layout import Layout
from paddle_stacks.jobs.llama_config import LlamaConfig
from paddle_stacks.memory import Workload, plan
from paddle_stacks.memory.request import Request, make
from paddle_stacks.memory.shapes import find
from paddle_stacks.recipes import BENCHMARK, Recipe, steps

__all__ = ["Needs", "all_of", "of"]

_GIB, _GB = 2**30, 10**9
# Tokens per second and card that others measured in trainings of Llama-2-13b on four BW1000
# (bfloat16 O1, tp=2, pp=2, records of 2048 tokens): DongBaiYue/llama2-dcu-pretrain at a276b91,
# 8192 tokens in 4.02 s (LoRA) and 4.25 s (full).
_SPEEDS = {"lora": 510, "full": 480}
_PREALLOCATED = 8192  # tokens of the cache of each request in upstream's fused predictor


@dataclass(frozen=True)
class Needs:
    """The needs of a recipe.

    Args:
        disk: bytes in the workspace: the model, what the recipes before it produce, what it
            produces, and its checkpoints; 0 if unknown.
        memory: bytes on each card; 0 if unknown.
        card: bytes that a card has.
        time: how long it takes; ``not measured`` where nobody published a measurement.
    """

    disk: int
    memory: int
    card: int
    time: str

    @property
    def disk_text(self) -> str:
        """Disk space in GB."""
        return f"{self.disk / _GB:.0f}" if self.disk >= _GB else f"{self.disk / _GB:.1f}"

    @property
    def memory_text(self) -> str:
        """Memory in GiB, marked if a card does not have it."""
        size = f"{self.memory / _GIB:.0f}" if self.memory >= _GIB else f"{self.memory / _GIB:.1f}"
        return f"{size} > {self.card / _GIB:.0f}" if self.memory > self.card else size


def all_of(recipes: Mapping[str, Recipe], root: Path) -> dict[str, Needs]:
    """Return the needs of a backend's recipes by name, without those that only measure."""
    return {
        name: needs
        for name, recipe in recipes.items()
        if not name.endswith(BENCHMARK)
        if (needs := of(recipe, root, steps(recipe, recipes)))
    }


def of(recipe: Recipe, root: Path, before: Sequence[Recipe] = ()) -> Needs | None:
    """Return the needs of a recipe; None if its model's shape is unknown.

    Args:
        recipe: the recipe.
        root: the repository's root, where configurations are.
        before: the recipes that run before it.
    """
    try:
        model = find(recipe.model, root)
    except RequestError:
        return None
    card = make({"model": recipe.model}, root).memory
    disk = 2 * model.parameters + sum(_output(each, model, root) for each in (*before, recipe))
    if recipe.job in ("finetune", "pretrain"):
        request = _request(recipe, root)
        worst = max(plan(request.model, request.work, request.layout), key=lambda p: p.size)
        speed = _SPEEDS[request.work.method]
        return Needs(disk, worst.size, card, f"about {speed} tokens/s per card")
    worst = plan(model, _inference(recipe, root), Layout(tensor=recipe.cards))[0]
    return Needs(disk, worst.size, card, "not measured")


def _request(recipe: Recipe, root: Path) -> Request:
    cards = str(recipe.cards * recipe.nodes)
    return make({"config": recipe.config, "cards": cards}, root)


def _inference(recipe: Recipe, root: Path) -> Workload:
    """Return the workload of a recipe that computes answers or measures scales."""
    options = recipe.arguments
    if recipe.job == "quantize":
        config = json_files.read_object(root / recipe.config)
        return Workload(
            "inference",
            batch=int(config["per_device_train_batch_size"]),
            sequence=int(config["max_length"]),
        )
    batch = 1 if recipe.job == "export" else int(options.get("batch_size", 1))
    fused = bool(options.get("inference_model"))
    lengths = int(options.get("src_length", 1024)) + int(options.get("max_length", 1024))
    name = str(options.get("model_name_or_path", ""))
    quantized = str(options.get("quant_type", "")).startswith("a8w8") or "a8w8" in name
    return Workload(
        "inference",
        batch=batch,
        sequence=_PREALLOCATED if fused else lengths,
        blocks=fused,
        int8_weights=quantized,
        int8_cache="cachekv_int8_type" in options or "c8" in name.rpartition("a8w8")[2],
    )


def _output(recipe: Recipe, model: LlamaConfig, root: Path) -> int:
    """Return the bytes that a recipe writes to the workspace."""
    if recipe.job in ("finetune", "pretrain"):
        request = _request(recipe, root)
        return _checkpoints(request, recipe, root)
    if not recipe.produces or recipe.job == "prepare":
        return 0
    work = replace(_inference(recipe, root), blocks=True)
    if recipe.job == "quantize":
        work = replace(work, int8_weights=True)
    return plan(model, work, Layout())[0].lines[0].size


def _checkpoints(request: Request, recipe: Recipe, root: Path) -> int:
    """Return the bytes of a training's checkpoints, one more than it keeps, and of its result."""
    config = json_files.read_object(root / recipe.config)
    states = request.work.states
    trained = request.model.parameters
    if request.work.method == "lora":
        trained = request.model.num_hidden_layers * request.model.adapter(request.work.rank)
    checkpoint = trained * (states.weight + states.master + states.moments)
    count = int(config.get("save_total_limit") or 1) + 1
    return count * checkpoint + trained * states.weight

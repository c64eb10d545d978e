"""Checks of a training's parallel layout, before its processes start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files, llama_config, upstream, workspace
from paddle_stacks.jobs import layout as layouts
from paddle_stacks.jobs.layout import Layout
from paddle_stacks.jobs.schema import Config

__all__ = ["as_options", "check", "faults", "model_config", "of"]


def of(config: Config, world: int) -> Layout:
    """Return the layout of a training."""
    return Layout.of(as_options(config), world)


def check(config: Config, base: Path, world: int) -> None:
    """Check that a training's layout is possible.

    Args:
        config: the training's configuration.
        base: the model's folder.
        world: number of processes on all nodes.

    Raises:
        RequestError: it is not, or the model cannot be trained. Reports all reasons.
    """
    workspace.check_trainable(base)
    if problems := list(faults(config, base, world)):
        raise RequestError(problems)


def faults(config: Config, base: Path, world: int) -> Iterator[Problem]:
    """Yield the problems of a layout: degrees that divide neither the processes nor the model."""
    if world == 1 and config.schema.job == "finetune":
        return  # the degrees have no effect, as the configuration's notes say
    yield from upstream.layout_faults(as_options(config), world)
    values = model_config(base)
    if config.schema.job == "pretrain" and config["num_hidden_layers"]:
        values["num_hidden_layers"] = config["num_hidden_layers"]
    layout = of(config, world)
    if values.get("model_type", "llama") == "llama":
        shape = llama_config.from_config(values, base.name, str(base / "config.json"))
        # KV heads that cannot be divided are copied to every process of the group.
        shape = replace(shape, num_key_value_heads=shape.num_attention_heads)
        steps = config["gradient_accumulation_steps"]
        for problem in layouts.problems(shape, layout, steps):
            yield replace(problem, where=f"{config.path}: {problem.where}")
    if layout.pipeline > 1 and values.get("tie_word_embeddings"):
        yield Problem(
            "a model with tied embeddings cannot be divided into pipeline stages",
            f'{config.path}: "pipeline_parallel_degree"',
            'a model with "tie_word_embeddings": false, or tensor parallelism',
        )
    if config.schema.job == "finetune":
        yield from _finetune_faults(config, layout)


def _finetune_faults(config: Config, layout: Layout) -> Iterator[Problem]:
    """Yield the keys that fine-tuning cannot combine with a layout."""
    conflicts: list[tuple[str, str, str]] = []
    if config["merge"]:
        reason = "does not work in several processes; the export job merges afterwards"
        conflicts.append(("merge", reason, "false"))
    if layout.pipeline > 1:
        conflicts += [
            (key, "does not work with pipeline parallelism", "false")
            for key in ("neftune", "zero_padding")
            if config[key]
        ]
        if str(config["metric_for_best_model"] or "").endswith("accuracy"):
            reason = "cannot be accuracy with pipeline parallelism, which measures the loss only"
            conflicts.append(("metric_for_best_model", reason, "loss"))
    for key, degree in (
        ("virtual_pp_degree", layout.virtual),
        ("sep_parallel_degree", layout.other),
    ):
        if degree > 1:
            conflicts.append((key, "is for the pretrain job", "1"))
    if layout.stage > 1 and config["device"] == "cpu":
        conflicts.append(("sharding", "must be stage1 on a CPU", "stage1"))
    for key, reason, value in conflicts:
        yield Problem(f'"{key}" {reason}', f"{config.path}", f"--set {key}={value}")


def model_config(base: Path) -> dict[str, Any]:
    """Return a model's ``config.json``.

    Raises:
        RequestError: it is not a JSON object.
    """
    return json_files.read_object(base / "config.json", remedy="fetch the model again")


def as_options(config: Config) -> upstream.Options:
    """Return a configuration as the options of the corresponding script."""
    places = dict.fromkeys(config.values, str(config.path))
    return upstream.Options(config.schema.job, config.values, config.path, places)

"""Whether a training can be spread over its processes, before any of them is started."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files, layout, llama_config, upstream, workspace
from paddle_stacks.jobs.layout import Layout
from paddle_stacks.jobs.schema import Config

__all__ = ["check", "faults", "model_config", "of"]


def of(config: Config, world: int) -> Layout:
    """Return how a training is spread over its processes."""
    return Layout.of(_options(config), world)


def check(config: Config, base: Path, world: int) -> None:
    """Refuse a training that cannot be spread so.

    Args:
        config: its configuration.
        base: the model's folder.
        world: processes of all nodes.

    Raises:
        RequestError: it cannot; all reasons at once.
    """
    workspace.check_trainable(base)
    if problems := list(faults(config, base, world)):
        raise RequestError(problems)


def faults(config: Config, base: Path, world: int) -> Iterator[Problem]:
    """Yield what does not divide: processes by degrees, and the model by them."""
    if world == 1 and config.schema.job == "finetune":
        return  # there the degrees have no effect, as the configuration's notes say
    yield from upstream.layout_faults(_options(config), world)
    values = model_config(base)
    if config.schema.job == "pretrain" and config["num_hidden_layers"]:
        values["num_hidden_layers"] = config["num_hidden_layers"]
    spread = of(config, world)
    if values.get("model_type", "llama") == "llama":
        shape = llama_config.from_config(values, base.name, str(base / "config.json"))
        # A head of keys and values that is not divided is in every process of its group.
        shape = replace(shape, num_key_value_heads=shape.num_attention_heads)
        told = layout.problems(shape, spread, config["gradient_accumulation_steps"])
        for problem in told:
            yield replace(problem, where=f"{config.path}: {problem.where}")
    if spread.pipeline > 1 and values.get("tie_word_embeddings"):
        yield Problem(
            "a model whose head is its embedding cannot be spread over pipeline stages",
            f'{config.path}: "pipeline_parallel_degree"',
            'a model with "tie_word_embeddings": false, or tensor parallelism',
        )
    if config.schema.job == "finetune":
        yield from _of_answers(config, spread)


def _of_answers(config: Config, spread: Layout) -> Iterator[Problem]:
    """Yield what fine-tuning does in one process only, or not in stages."""
    cannot: list[tuple[str, str]] = []
    if config["merge"]:
        cannot.append(("merge", "in several processes; the export job merges afterwards"))
    if spread.pipeline > 1:
        cannot += [
            (key, "where the layers are in several stages")
            for key in ("neftune", "zero_padding")
            if config[key]
        ]
        if str(config["metric_for_best_model"] or "").endswith("accuracy"):
            cannot.append(("metric_for_best_model", "by accuracy, which stages do not tell"))
    if spread.virtual > 1:
        cannot.append(("virtual_pp_degree", "in this job; the pretrain job can"))
    if spread.other > 1:
        cannot.append(("sep_parallel_degree", "in this job; the pretrain job can"))
    if spread.stage > 1 and config["device"] == "cpu":
        cannot.append(("sharding", "beyond stage1 on a CPU"))
    for key, why in cannot:
        yield Problem(f'"{key}" does not go {why}', f"{config.path}", f"--set {key}={_off(key)}")


def _off(key: str) -> str:
    usual = {"virtual_pp_degree": "1", "sep_parallel_degree": "1", "sharding": "stage1"}
    return usual.get(key, "loss" if key == "metric_for_best_model" else "false")


def model_config(base: Path) -> dict[str, Any]:
    """Return a model's ``config.json``.

    Raises:
        RequestError: it is no JSON object.
    """
    return json_files.read_object(base / "config.json", remedy="fetch the model again")


def _options(config: Config) -> upstream.Options:
    places = dict.fromkeys(config.values, str(config.path))
    return upstream.Options(config.schema.job, config.values, config.path, places)

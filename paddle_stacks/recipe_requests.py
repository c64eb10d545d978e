"""Requests for the jobs of recipes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.arguments import parse
from paddle_stacks.jobs.options import (
    FinetuneOptions,
    NodeOptions,
    Options,
    PretrainOptions,
    QuantizeOptions,
    RecipeOptions,
    UpstreamOptions,
)
from paddle_stacks.jobs.schema.values import key_value
from paddle_stacks.plan import Backend
from paddle_stacks.recipes import Recipe
from paddle_stacks.request import JobRequest, from_options, from_words
from paddle_stacks.settings import Settings

__all__ = ["caller_options", "from_recipe"]

_NODES = tuple(each.name for each in fields(NodeOptions))


def caller_options(recipe: Recipe, words: Sequence[str], backend: str) -> RecipeOptions:
    """Return the options that a recipe leaves to its caller.

    The model is a name in ``models/``, or None for the recipe's own.

    Args:
        recipe: the recipe.
        words: the command line.
        backend: the backend that the job will run on.

    Raises:
        RequestError: the recipe sets an option, or the model is a path outside ``models/``.
    """
    allowed = {
        "prepare": (),
        "finetune": ("name",),
        "pretrain": ("name", *_NODES),
        "quantize": ("name", "model", *_NODES),
    }.get(recipe.job, ("name", "model"))
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and option[2:].replace("-", "_") not in allowed:
            raise RequestError(
                f"the recipe {recipe.name} sets {option}",
                where=option,
                remedy="override it with --set KEY=VALUE, or run the job without --recipe",
            )
    options = parse(RecipeOptions, words, backend)
    if options.model and not re.fullmatch(r"\w[\w.-]*", options.model_name):
        name = Path(options.model).name
        raise RequestError(
            f'"{options.model}" is not the name of a model in models/',
            where="--model",
            remedy=f"copy it to models/{name}, then --model {name}",
        )
    return options


def from_recipe(
    recipe: Recipe,
    caller: RecipeOptions,
    changes: Sequence[str],
    settings: Settings,
    backend: Backend,
) -> JobRequest:
    """Return the request for a recipe's job.

    Args:
        recipe: the recipe.
        caller: the options that it leaves to its caller.
        changes: ``KEY=VALUE`` that override its configuration or options.
        settings: the workspace, and the root with the recipe's configuration.
        backend: the backend that the job will run on.

    Raises:
        RequestError: the job cannot run like this. Reports all faults.
    """
    workspace, devices = settings.workspace, bool(backend.devices)
    name = caller.name or recipe.name
    if recipe.job == "prepare":
        values = {**_changed(recipe, changes, name), "output": recipe.produces}
        words = _words({**values, "model": recipe.model})
        return from_words("prepare", words, workspace, backend.name)
    if recipe.config and not (workspace / recipe.config).is_file():
        raise RequestError(
            f"the recipe's configuration is not in the workspace: {recipe.config}",
            where=str(workspace),
            remedy=f"cp --parents {recipe.config} {workspace} (in {settings.root})",
        )
    nodes: dict[str, Any] = {key: getattr(caller, key) for key in _NODES}
    options: Options
    if recipe.script:
        options = _script_options(recipe, name, nodes, changes)
    elif recipe.job == "quantize":
        values = _changed(recipe, changes, name)
        overrides = tuple(f"{key}={_text(value)}" for key, value in values.items())
        nodes["ranks"] = caller.ranks or 1
        options = QuantizeOptions(
            config=Path(recipe.config), set=overrides, name=caller.name, **nodes
        )
    else:
        nodes["ranks"] = caller.ranks or 1
        config = Path(recipe.config)
        training = FinetuneOptions if recipe.job == "finetune" else PretrainOptions
        options = training(config=config, set=tuple(changes), name=name, **nodes)
    options.check(backend.name)
    return from_options(recipe.job, options, workspace, backend.name, devices=devices)


def _script_options(
    recipe: Recipe, name: str, nodes: Mapping[str, Any], changes: Sequence[str]
) -> UpstreamOptions:
    """Return the options of ``upstream`` for a recipe that runs one of its scripts."""
    count = nodes["nnodes"] or recipe.nodes
    if count > 1 and not nodes["master"]:
        raise RequestError(
            f"{recipe.name} runs on {count} nodes and requires their rendezvous address",
            where="--master",
            remedy=f"./inv {recipe.job} --recipe {recipe.name} --master HOST:PORT --rank N, with "
            "an address of node 0, on each node another rank from 0",
        )
    config = (recipe.config,) if recipe.config else ()
    own = {
        "ranks": nodes["ranks"] or recipe.cards,
        "nnodes": count if count > 1 else None,
    }
    return UpstreamOptions(
        name=name,
        script=recipe.script,
        arguments=(*config, *_words(_changed(recipe, changes, name))),
        **{**nodes, **own},
    )


def _changed(recipe: Recipe, changes: Sequence[str], name: str) -> dict[str, Any]:
    """Return a recipe's options with the caller's changes."""
    options = dict(recipe.arguments)
    if recipe.script.endswith("predictor.py"):
        options["output_file"] = f"runs/{name}/output.json"
    for text in changes:
        key, value = key_value(text, "top_p=0.9")
        options[key] = value
    return options


def _words(options: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for key, value in options.items():
        words += [f"--{key}"] if value is True else [f"--{key}", _text(value)]
    return words


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

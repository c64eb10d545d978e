"""Checks that a backend can run a job, made before a container starts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from paddle_stacks.dcu import capability
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import documented, fused, upstream
from paddle_stacks.jobs.schema import Config
from paddle_stacks.plan import Backend
from paddle_stacks.settings import Settings

__all__ = ["check_config", "check_upstream"]


def check_config(
    config: Config,
    settings: Settings,
    backend: Backend,
    devices: Sequence[int] = (),
    *,
    ranks: int = 1,
    nodes: int = 1,
    allow_bf16: bool = False,
    instead: str = "",
) -> None:
    """Check that a backend's devices can run a training, and that its layout is possible.

    Args:
        config: the training's configuration.
        settings: of this command.
        backend: the backend that it runs on.
        devices: the devices that it uses; empty for all.
        ranks: processes per node.
        nodes: number of nodes.
        allow_bf16: skip the check for bfloat16.
        instead: advice for a job that needs too much memory; empty for the default.

    Raises:
        RequestError: the backend cannot run it. Reports all reasons at once.
    """
    values = dict(config.values)
    if ranks * nodes == 1 and config.schema.job == "finetune":
        # As upstream does: a single process ignores the parallel degrees.
        values = {k: v for k, v in values.items() if not k.endswith("_degree")} | {"sharding": ""}
    if allow_bf16:
        values.pop("bf16", None)
    places = dict.fromkeys(values, str(config.path))
    options = upstream.Options(config.schema.job, values, config.path, places)
    problems = upstream.layout_faults(options, ranks * nodes)
    problems += _device_count_problems(devices, ranks)
    if backend.device == "gpu":
        problems += capability.problems(
            options,
            capability.detect(settings.host_root, devices),
            per_node=ranks,
            nodes=nodes,
            training=True,
            workspace=settings.workspace,
            remedy=instead,
        )
    if problems:
        raise RequestError(problems)


def _device_count_problems(devices: Sequence[int], ranks: int) -> list[Problem]:
    if not devices or len(devices) >= ranks:
        return []
    message = f"the job needs {ranks} devices; --devices lists {len(devices)}"
    return [Problem(message, "--devices", f"--devices 0-{ranks - 1}")]


def check_upstream(
    arguments: argparse.Namespace,
    settings: Settings,
    backend: Backend,
    devices: Sequence[int] = (),
    *,
    instead: str = "",
) -> None:
    """Check a run of one of upstream's programs. The container checks its configuration file.

    Args:
        arguments: of ``upstream``.
        settings: of this command.
        backend: the backend that it runs on.
        devices: the devices that it uses; empty for all.
        instead: advice for a job that needs too much memory; empty for the default.

    Raises:
        RequestError: it cannot work. Reports all reasons at once.
    """
    words: list[str] = arguments.arguments
    options = upstream.options(arguments.script, words, _finder(settings.workspace))
    nodes = arguments.nnodes or 1
    own = words[1:] if words and words[0].endswith(".json") else words
    problems = upstream.faults(options, own, world=arguments.ranks * nodes)
    if options.config is not None:
        problems += documented.key_problems(
            [key for key in options.values if not options.where(key).startswith("--")],
            options.where,
        )
    problems += fused.problems(
        options,
        settings.workspace,
        on_dcu=bool(backend.devices),
        gpu=backend.device == "gpu",
        instead=instead,
        patched=not arguments.unpatched,
    )
    problems += _device_count_problems(devices, arguments.ranks)
    if backend.device == "gpu":
        if arguments.allow_bf16:
            options = replace(
                options, values={k: v for k, v in options.values.items() if k != "bf16"}
            )
        problems += capability.problems(
            options,
            capability.detect(settings.host_root, devices),
            per_node=arguments.ranks,
            nodes=nodes,
            training="predict" not in Path(arguments.script).parts and not options.on("do_ptq"),
            workspace=settings.workspace,
            remedy=instead,
        )
    if problems:
        raise RequestError(problems)


def _finder(workspace: Path) -> Callable[[str], Path | None]:
    def find(name: str) -> Path | None:
        path = workspace / name
        return path if path.is_file() else None

    return find

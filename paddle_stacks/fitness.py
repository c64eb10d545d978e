"""Whether a platform can do what is asked, as far as that is known before a container starts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from paddle_stacks.dcu import fit
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import documented, fused, upstream
from paddle_stacks.jobs.schema import Config
from paddle_stacks.plan import Backend
from paddle_stacks.settings import Settings

__all__ = ["check_config", "check_upstream"]


def check_config(
    config: Config,
    settings: Settings,
    platform: Backend,
    picked: Sequence[int] = (),
    *,
    ranks: int = 1,
    nodes: int = 1,
    allow_bf16: bool = False,
    instead: str = "",
) -> None:
    """Check that a platform's cards can do a training of ours, and that its processes divide.

    Args:
        config: of the training.
        settings: of this command.
        platform: where it is to run.
        picked: the cards that it is to use; none for all.
        ranks: processes of a node.
        nodes: that train together.
        allow_bf16: whether its cards are said to have bfloat16.
        instead: what to do where the memory does not suffice; empty: the usual.

    Raises:
        RequestError: they cannot; all reasons at once.
    """
    values = dict(config.values)
    if ranks * nodes == 1 and config.schema.job == "finetune":
        # Upstream too takes one process alone for one that shares nothing.
        values = {k: v for k, v in values.items() if not k.endswith("_degree")} | {"sharding": ""}
    if allow_bf16:
        values.pop("bf16", None)
    places = dict.fromkeys(values, str(config.path))
    found = upstream.Options(config.schema.job, values, config.path, places)
    problems = upstream.layout_faults(found, ranks * nodes)
    problems += _picked_faults(picked, ranks)
    if platform.device == "gpu":
        problems += fit.problems(
            found,
            fit.look(settings.host_root, picked),
            per_node=ranks,
            nodes=nodes,
            training=True,
            workspace=settings.workspace,
            remedy=instead,
        )
    if problems:
        raise RequestError(problems)


def _picked_faults(picked: Sequence[int], ranks: int) -> list[Problem]:
    if not picked or len(picked) >= ranks:
        return []
    what = f"{ranks} cards are needed, and --devices picks {len(picked)}"
    return [Problem(what, "--devices", f"--devices 0-{ranks - 1}")]


def check_upstream(
    arguments: argparse.Namespace,
    settings: Settings,
    platform: Backend,
    picked: Sequence[int] = (),
    *,
    instead: str = "",
) -> None:
    """Check a run of upstream's program. A configuration of its own is checked in the container.

    Args:
        arguments: of ``upstream``.
        settings: of this command.
        platform: where it is to run.
        picked: the cards that it is to use; none for all.
        instead: what to do where the memory does not suffice; empty: the usual.

    Raises:
        RequestError: it cannot work; all reasons at once.
    """
    words: list[str] = arguments.arguments
    found = upstream.options(arguments.script, words, _finder(settings.workspace))
    nodes = arguments.nnodes or 1
    own = words[1:] if words and words[0].endswith(".json") else words
    problems = upstream.faults(found, own, world=arguments.ranks * nodes)
    if found.config is not None:
        problems += documented.key_problems(
            [key for key in found.values if not found.where(key).startswith("--")], found.where
        )
    problems += fused.problems(
        found,
        settings.workspace,
        on_dcu=bool(platform.devices),
        gpu=platform.device == "gpu",
        instead=instead,
    )
    problems += _picked_faults(picked, arguments.ranks)
    if platform.device == "gpu":
        if arguments.allow_bf16:
            found = replace(found, values={k: v for k, v in found.values.items() if k != "bf16"})
        problems += fit.problems(
            found,
            fit.look(settings.host_root, picked),
            per_node=arguments.ranks,
            nodes=nodes,
            training="predict" not in Path(arguments.script).parts and not found.on("do_ptq"),
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

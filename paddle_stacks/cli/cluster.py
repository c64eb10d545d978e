"""The task that writes a job down for a cluster's scheduler."""

from __future__ import annotations

from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.parser.argument import Argument

from paddle_stacks import settings
from paddle_stacks.cli import ROOT
from paddle_stacks.cli.jobs import PlanTask, _words
from paddle_stacks.dcu.cards import parse_devices
from paddle_stacks.errors import RequestError, did_you_mean
from paddle_stacks.jobs.arguments import PARSERS
from paddle_stacks.jobs.catalog import find

__all__ = ["collection"]

_ENGINES = ("slurm", "kubernetes")
_OWN = {
    "engine": f"What will run it: {' or '.join(_ENGINES)}.",
    "nodes": "How many machines share the job (default: 1).",
    "hours": "How long it may take (default: 24).",
    "groups": "Kubernetes: the groups of a node's device nodes, as 44,109 (default: this host's).",
    "claim": "Kubernetes: the PersistentVolumeClaim that is the workspace (default: workspace).",
}
# A plan's own, which say what to do with it.
_NOT_HERE = {"dry-run", "json"}


class RenderTask(PlanTask):
    """The task that renders any job, named by its first argument."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the arguments of a plan, and those of a cluster."""
        found = super().get_arguments(ignore_unknown_help)
        return [argument for argument in found if argument.names[0] not in _NOT_HERE]

    def own_arguments(self) -> list[Argument]:
        """Return the job's name, and what a cluster has to be told."""
        return [
            *super().own_arguments(),
            *(Argument(name, kind=str, help=text) for name, text in _OWN.items()),
        ]


def _render(context: Context, job: str, **options: Any) -> None:
    """Write a job down for a scheduler: ./inv render finetune --config my.json --engine slurm."""
    from dataclasses import replace

    from paddle_stacks import launch
    from paddle_stacks.plan import backend, cluster

    find(job)
    own = {name: options.pop(name, None) for name in _OWN}
    engine = _engine(own["engine"])
    found = settings.load(ROOT, {"backend": options.pop("backend", None)})
    devices, profile = options.pop("devices", None), options.pop("profile", None) or ""
    choices = launch.Choices(profile, parse_devices(devices) if devices else ())
    plan = launch.make_plan(job, _words(job, options), found, choices)
    platform = backend.load(found.backend, found.root, profile)
    if found.registry:
        plan = replace(plan, image=f"{found.registry}/{plan.image}")
    nodes, hours = _number("nodes", own["nodes"], 1), _number("hours", own["hours"], cluster.HOURS)
    if engine == "slurm":
        text = cluster.as_slurm(plan, platform, nodes, hours=hours)
    else:
        if own["groups"]:
            plan = replace(plan, groups=tuple(own["groups"].split(",")))
        claim = own["claim"] or "workspace"
        text = cluster.as_kubernetes(plan, platform, nodes, hours=hours, claim=claim)
    print(text, end="")


def _engine(name: str | None) -> str:
    if name not in _ENGINES:
        hint = did_you_mean(name or "", _ENGINES)
        what = f'no scheduler is named "{name}"' if name else "which scheduler is not said"
        remedy = f"{hint} engines: {', '.join(_ENGINES)}".strip()
        raise RequestError(what, where="--engine", remedy=remedy)
    return name


def _number(option: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal():
        raise RequestError(f'"{text}" is not a number', where=f"--{option}", remedy="1 or more")
    return int(text)


def collection() -> Collection:
    """Return the task."""
    made = Collection()
    made.add_task(RenderTask(_render, PARSERS, name="render"))
    return made

"""The task that writes a job down for a cluster's scheduler."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.parser.argument import Argument

from paddle_stacks import recipes, settings
from paddle_stacks.cli import ROOT
from paddle_stacks.cli.jobs import PlanTask, verbatim_words, words_of
from paddle_stacks.dcu.cards import parse_devices
from paddle_stacks.errors import RequestError, did_you_mean
from paddle_stacks.jobs.arguments import PARSERS, parser
from paddle_stacks.jobs.catalog import find

if TYPE_CHECKING:
    from paddle_stacks.plan import Plan

__all__ = ["collection"]

_ENGINES = ("slurm", "kubernetes")
_OWN = {
    "engine": f"What will run it: {' or '.join(_ENGINES)}.",
    "nodes": "How many machines share the job (default: 1).",
    "hours": "How long it may take (default: 24).",
    "groups": "Kubernetes: the groups of a node's device nodes, as 44,109 (default: this host's).",
    "claim": "Kubernetes: the PersistentVolumeClaim that is the workspace (default: workspace).",
    "namespace": "Kubernetes: where the job is (default: the context's).",
    "queue": "Kubernetes: Volcano's queue; all nodes start together, or none.",
    "priority": "Kubernetes: the PriorityClass.",
    "resources": "Kubernetes: whose names cards have: hygon or hami (default: hygon).",
    "operator": "Kubernetes: what runs several nodes: paddlejob or none (default: what is there).",
    "user": "Kubernetes: UID:GID of the job, who may write to the claim (default: this caller's).",
}
_PLACEMENT = ("claim", "namespace", "queue", "priority", "resources", "operator", "user")
# How nodes are told where they meet, as a plan for several has it; empty: how many there are.
_MEETING = {"nnodes": "", "master": "0.0.0.0:1", "rank": "0"}
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
    """Write a job down for a scheduler: ./inv render pretrain --recipe NAME --engine slurm."""
    from paddle_stacks.plan import backend, cluster, kubernetes

    find(job)
    own = {name: options.pop(name, None) for name in _OWN}
    engine = _engine(own["engine"])
    found = settings.load(ROOT, {"backend": options.pop("backend", None)})
    platform = backend.load(found.backend, found.root, options.get("profile") or "")
    nodes = _number("nodes", own["nodes"], _usual_nodes(job, options.get("recipe"), found))
    hours = _number("hours", own["hours"], cluster.HOURS)
    plan = _plan_for(nodes, job, options, found, verbatim_words(context))
    if found.registry:
        plan = replace(plan, image=f"{found.registry}/{plan.image}")
    if engine == "slurm":
        text = cluster.as_slurm(plan, platform, nodes, hours=hours)
    else:
        if own["groups"]:
            plan = replace(plan, groups=tuple(own["groups"].split(",")))
        placement = kubernetes.Placement(**{k: own[k] for k in _PLACEMENT if own[k]})
        text = kubernetes.as_kubernetes(plan, platform, nodes, hours=hours, placement=placement)
    print(text, end="")


def _usual_nodes(job: str, recipe: str | None, found: settings.Settings) -> int:
    return recipes.find(recipe, found.root, found.backend, job).nodes if recipe else 1


def _plan_for(
    nodes: int,
    job: str,
    options: dict[str, Any],
    found: settings.Settings,
    verbatim: Sequence[str],
) -> Plan:
    """Return the plan of one node's part; say what has to be done before it."""
    from paddle_stacks import launch

    recipe, devices = options.pop("recipe", None) or "", options.pop("devices", None)
    choices = launch.Choices(
        options.pop("profile", None) or "",
        parse_devices(devices) if devices else (),
        recipe,
        tuple(options.pop("set", None) or ()) if recipe else (),
    )
    if given := [f"--{name}" for name in _MEETING if options.get(name)]:
        what = f"where the nodes meet is the scheduler's to say, not {', '.join(given)}"
        raise RequestError(what, where=job, remedy="--nodes N says how many there are")
    words = words_of(job, options, verbatim)
    if nodes > 1 and _MEETING.keys() <= {action.dest for action in parser(job)._actions}:
        # What is checked is checked for all nodes. The values are replaced by the scheduler's.
        words = [*(f"--{name}={value or nodes}" for name, value in _MEETING.items()), *words]
    steps = launch.make_steps(job, words, found, choices)
    for step in steps.before:
        if not step.whole:
            print(f"not in it, and needed first: {step.produces}", file=sys.stderr)
    return steps.plan


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

"""The tasks that hand jobs to a cluster's scheduler, and ask it about them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.parser.argument import Argument

from paddle_stacks import recipes, settings
from paddle_stacks.cli import ROOT, task
from paddle_stacks.cli.jobs import PlanTask, verbatim_words, words_of
from paddle_stacks.dcu.cards import parse_devices
from paddle_stacks.errors import MachineError, Problem, RequestError, printable, suggest
from paddle_stacks.jobs.arguments import PARSERS, parser
from paddle_stacks.jobs.catalog import find

if TYPE_CHECKING:
    from paddle_stacks.executors.cluster import Cluster, Order, Row, Submitted
    from paddle_stacks.launch import Step, Steps

__all__ = ["collection"]

_ENGINES = ("slurm", "kubernetes")
_OWN = {
    "engine": f"What will run it: {' or '.join(_ENGINES)}.",
    "nodes": "How many machines share the job (default: 1).",
    "hours": "How long it may take (default: 24).",
    "container": "Slurm: what starts the container, docker or apptainer (default: docker).",
    "image-file": "Slurm: the file with the image: X.tar for Docker, X.sif for Apptainer.",
    "groups": "Kubernetes: the groups of a node's device nodes, as 44,109 (default: this host's).",
    "claim": "Kubernetes: the PersistentVolumeClaim that is the workspace (default: workspace).",
    "context": "Kubernetes: which of the kubeconfig's clusters (default: the current one).",
    "namespace": "Kubernetes: where the job is (default: the context's).",
    "queue": "Kubernetes: Volcano's queue; all nodes start together, or none.",
    "priority": "Kubernetes: the PriorityClass.",
    "resources": "Kubernetes: whose names cards have: hygon or hami (default: hygon).",
    "operator": "Kubernetes: what runs several nodes: paddlejob or none (default: what is there).",
    "user": "Kubernetes: UID:GID of the job, who may write to the claim (default: this caller's).",
}
_PLACEMENT = ("claim", "namespace", "queue", "priority", "resources", "operator", "user")
_SLURM = "KEY or KEY=VALUE: an option of sbatch, as partition=dcu; repeatable."
# How nodes are told where they meet, as a plan for several has it; empty: how many there are.
_MEETING = {"nnodes": "", "master": "0.0.0.0:1", "rank": "0"}
# A plan's own, which say what to do with it, and what this machine's engine is asked.
_NOT_HERE = {"dry-run", "json", "require-verified"}


class ClusterTask(PlanTask):
    """A task about any job, named by its first argument, on a cluster."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the arguments of a plan, and those of a cluster."""
        found = super().get_arguments(ignore_unknown_help)
        return [argument for argument in found if argument.names[0] not in _NOT_HERE]

    def own_arguments(self) -> list[Argument]:
        """Return the job's name, and what a cluster has to be told."""
        return [
            *super().own_arguments(),
            *(Argument(name, kind=str, help=text) for name, text in _OWN.items()),
            Argument("slurm", kind=list, help=_SLURM),
        ]


@dataclass(frozen=True)
class _Request:
    """What a command line asks a scheduler for.

    Args:
        order: the job.
        scheduler: who is to run it.
        steps: the job's plan, and what comes before it.
    """

    order: Order
    scheduler: Cluster
    steps: Steps

    @property
    def before(self) -> tuple[Step, ...]:
        """What has to be done first, and is not."""
        return tuple(step for step in self.steps.before if not step.whole)

    @property
    def sees_workspace(self) -> bool:
        """Whether the job's workspace is this one: in Kubernetes it is a claim."""
        from paddle_stacks.executors.slurm import Slurm

        return isinstance(self.scheduler, Slurm)


def _render(context: Context, /, job: str, **options: Any) -> None:
    """Print the job script for Slurm or Kubernetes.

    ./inv cluster.render pretrain … --engine slurm.
    """
    from paddle_stacks import launch

    request = _request(context, job, options)
    text = request.scheduler.text(request.order)
    for step in request.before:
        print(f"not in it, and needed first: {step.produces}", file=sys.stderr)
    print(text, end="", flush=True)
    if request.sees_workspace:
        launch.check_requests(request.steps)
    else:
        print("note: model and data are in the claim, and are not checked", file=sys.stderr)


def _submit(context: Context, /, job: str, **options: Any) -> None:
    """Submit a job to Slurm or Kubernetes.

    ./inv cluster.submit JOB --engine slurm prints its number.
    """
    from paddle_stacks import launch

    request = _request(context, job, options)
    needed = [Problem(f"needed first: {s.produces}", job, _how(s)) for s in request.before]
    if needed and request.sees_workspace:
        raise RequestError(needed)
    for problem in needed:
        print(f"not looked for in the claim, and {problem.what}", file=sys.stderr)
    request.scheduler.text(request.order)  # what no scheduler can run is told first
    if request.sees_workspace:
        launch.check_files(request.order.plan)
    _refuse_a_second(request)
    made = request.scheduler.submit(request.order)
    _remember(request, made)
    say = f"submitted to {made.engine}: {job}, nodes: {made.nodes}; see: ./inv cluster.status"
    say += f", ./inv cluster.logs {made.id} --follow; end: ./inv cluster.cancel {made.id}"
    print(say, file=sys.stderr)
    print(made.id)


# Invoke has no argument that stands by itself and may be left out: here it is --id.
@task(help={"id": "A job's number or name. Default: all.", "json": "As JSON."})
def _status(context: Context, id: str | None = None, json: bool = False) -> None:
    """Show the jobs that were submitted from this workspace."""
    from paddle_stacks.executors import cluster

    found = settings.load(ROOT)
    jobs = [cluster.find(id, found.workspace)] if id else cluster.remembered(found.workspace)
    rows: list[tuple[Submitted, Row]] = []
    for engine in dict.fromkeys(job.engine for job in jobs):
        own = [job for job in jobs if job.engine == engine]
        rows += zip(own, _scheduler(engine, found).status(own), strict=True)
    _show(sorted(rows, key=lambda pair: pair[0].when), as_json=json)


@task(
    positional=["id"],
    help={
        "id": "A job's number or name.",
        "rank": "Of one process only, counted over all nodes.",
        "follow": "Go on until the job has ended.",
    },
)
def _logs(context: Context, id: str, rank: str | None = None, follow: bool = False) -> None:
    """Print a job's output from every node."""
    from paddle_stacks.executors import cluster

    found = settings.load(ROOT)
    job = cluster.find(id, found.workspace)
    wanted = None if rank is None else _number("rank", rank, 0)
    for line in _scheduler(job.engine, found).logs(job, wanted, follow=follow):
        print(printable(line), flush=follow)


@task(positional=["id"], help={"id": "A job's number or name."})
def _cancel(context: Context, id: str) -> None:
    """Cancel a job; a running job saves first."""
    from paddle_stacks.executors import cluster

    found = settings.load(ROOT)
    job = cluster.find(id, found.workspace)
    _scheduler(job.engine, found).cancel(job)
    print(f"cancelled: {id}", file=sys.stderr)


def _remember(request: _Request, made: Submitted) -> None:
    from paddle_stacks.executors import cluster

    try:
        cluster.remember(request.order, made)
    except OSError as error:
        raise MachineError(
            f"{made.id} was submitted to {made.engine}, and cannot be remembered: {error.strerror}",
            where=str(request.order.plan.workspace / made.folder),
            remedy="end it with the scheduler's own command, free the disk, submit it again",
        ) from error


def _refuse_a_second(request: _Request) -> None:
    """Refuse a job that would write where another one is going to.

    Raises:
        RequestError: a job of the same run has not ended.
    """
    from paddle_stacks.executors import cluster

    run = str(request.order.run or "")
    others = [j for j in cluster.remembered(request.order.plan.workspace) if run and j.run == run]
    found = settings.load(ROOT)
    for other in others[-1:]:
        (row,) = _scheduler(other.engine, found).status([other])
        if not row.ended:
            raise RequestError(
                f"job {other.id} of this run is {row.state}",
                where=run,
                remedy=f"./inv cluster.cancel {other.id}, or --name for a run of its own",
            )


def _show(found: Sequence[tuple[Submitted, Row]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([{**asdict(job), **asdict(row)} for job, row in found], indent=2))
        return
    if not found:
        print("no job was submitted from this workspace", file=sys.stderr)
        return
    lines = [("ID", "ENGINE", "JOB", "RUN", "STATE", "TIME", "NODES", "")]
    for job, row in found:
        again = f"started again {row.restarts} times" if row.restarts else ""
        why = ", ".join(filter(None, [row.why, again]))
        nodes = row.nodes or str(job.nodes)
        lines.append(
            (job.id, job.engine, job.job, job.run or "-", row.state, row.elapsed or "-", nodes, why)
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(f"{t:<{w}}" for t, w in zip(line, widths, strict=True)).rstrip())


def _scheduler(
    engine: str,
    found: settings.Settings,
    own: Mapping[str, str | None] | None = None,
    options: Sequence[str] = (),
) -> Cluster:
    """Return the executor of an engine.

    Args:
        engine: its name.
        found: the settings.
        own: the options of a cluster, by name; for a job that is submitted.
        options: those of ``sbatch``, likewise.
    """
    own = own or {}
    if engine == "kubernetes":
        from paddle_stacks.executors.kubernetes import Kubernetes
        from paddle_stacks.plan.kubernetes import Placement

        placement = {name: given for name in _PLACEMENT if (given := own.get(name))}
        return Kubernetes(Placement(**placement), own.get("context") or "")
    from paddle_stacks.executors.slurm import Slurm
    from paddle_stacks.plan.slurm import Container

    container = Container(own.get("container") or "docker", _absolute(own.get("image-file")))
    return Slurm(found.workspace, container, tuple(options))


def _absolute(path: str | None) -> Path | None:
    # Where the command is given, which is not where the job runs.
    return Path(path).absolute() if path else None


def _request(context: Context, job: str, options: dict[str, Any]) -> _Request:
    """Return what a command line asks for, after a check of all that can be known here."""
    from paddle_stacks import launch
    from paddle_stacks.executors.cluster import Order
    from paddle_stacks.plan import backend, cluster

    find(job)
    own = {name: options.pop(name, None) for name in _OWN}
    more = options.pop("slurm", None) or []
    for name in _OWN:
        # The job's own option of that name.
        if (value := options.pop(f"{job}_{name}", None)) is not None:
            options[name] = value
    engine = _engine(own["engine"])
    found = settings.load(ROOT, {"backend": options.pop("backend", None)})
    if found.require_verified:
        note = "note: require_verified is about this machine's engine; a cluster's are not asked"
        print(note, file=sys.stderr)
    platform = backend.load(found.backend, found.root, options.get("profile") or "")
    nodes = _number("nodes", own["nodes"], _usual_nodes(job, options.get("recipe"), found))
    hours = _number("hours", own["hours"], cluster.HOURS)
    steps = _steps_for(nodes, job, options, found, verbatim_words(context))
    plan = steps.plan
    if found.registry:
        plan = replace(plan, image=f"{found.registry}/{plan.image}")
    if own["groups"]:
        plan = replace(plan, groups=tuple(own["groups"].split(",")))
    run = launch.run_folder(plan)
    order = Order(plan, platform, nodes, hours, run and run.relative_to(plan.workspace))
    return _Request(order, _scheduler(engine, found, own, more), steps)


def _usual_nodes(job: str, recipe: str | None, found: settings.Settings) -> int:
    return recipes.find(recipe, found.root, found.backend, job).nodes if recipe else 1


def _steps_for(
    nodes: int,
    job: str,
    options: dict[str, Any],
    found: settings.Settings,
    verbatim: Sequence[str],
) -> Steps:
    """Return the plan of one node's part, and what has to be done before it."""
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
    return launch.make_steps(job, words, found, choices)


def _how(step: Step) -> str:
    """Return the command that does what has to be done first."""
    if step.recipe:
        return f"./inv {step.plan.job} --recipe {step.recipe} --backend {step.plan.backend}"
    return f"./inv {shlex.join(step.plan.argv)}"


def _engine(name: str | None) -> str:
    if name not in _ENGINES:
        what = f'no scheduler is named "{name}"' if name else "which scheduler is not said"
        remedy = suggest(name or "", _ENGINES, "engines")
        raise RequestError(what, where="--engine", remedy=remedy)
    return name


def _number(option: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal():
        raise RequestError(f'"{text}" is not a number', where=f"--{option}", remedy="1 or more")
    return int(text)


def collection() -> Collection:
    """Return the tasks, as ``cluster.NAME``."""
    made = Collection("cluster")
    made.add_task(ClusterTask(_render, PARSERS, name="render"))
    made.add_task(ClusterTask(_submit, PARSERS, name="submit"))
    for name, each in (("status", _status), ("logs", _logs), ("cancel", _cancel)):
        made.add_task(each, name=name)
    return made

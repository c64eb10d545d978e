"""One job from its arguments to a scheduler: plan, check, submit, record."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from paddle_stacks import launch, recipes
from paddle_stacks.errors import MachineError, Problem, RequestError, suggest
from paddle_stacks.executors import cluster as records
from paddle_stacks.executors.cluster import Cluster, JobSpec, JobStatus, SubmittedJob
from paddle_stacks.jobs.catalog import find
from paddle_stacks.jobs.options import OPTIONS, NodeOptions
from paddle_stacks.launch import Choices, Step, Steps
from paddle_stacks.plan import backend
from paddle_stacks.plan.cluster import HOURS
from paddle_stacks.settings import Settings

__all__ = [
    "ENGINES",
    "Submission",
    "cancel",
    "logs",
    "make_request",
    "read_number",
    "scheduler_of",
    "status",
    "submit",
    "table",
]

ENGINES = ("slurm", "kubernetes")
"""The schedulers."""

_PLACEMENT = ("claim", "namespace", "queue", "priority", "resources", "operator", "user")
# The rendezvous options in a plan for several nodes; empty: the number of nodes.
_RENDEZVOUS = {"nnodes": "", "master": "0.0.0.0:1", "rank": "0"}


@dataclass(frozen=True)
class Submission:
    """A job for a scheduler.

    Args:
        spec: the job.
        scheduler: the scheduler that runs it.
        steps: the job's plan, and the steps before it.
    """

    spec: JobSpec
    scheduler: Cluster
    steps: Steps

    @property
    def missing(self) -> tuple[Step, ...]:
        """The steps before the job whose output is missing."""
        return tuple(step for step in self.steps.before if not step.whole)

    @property
    def sees_workspace(self) -> bool:
        """Return whether the job uses this workspace, and not a claim in Kubernetes."""
        from paddle_stacks.executors.slurm import Slurm

        return isinstance(self.scheduler, Slurm)


def make_request(
    job: str,
    words: Sequence[str],
    settings: Settings,
    choices: Choices,
    options: Mapping[str, str | None],
    sbatch: Sequence[str] = (),
) -> Submission:
    """Return the submission of a command line, after all checks that are possible here.

    Args:
        job: name of the job.
        words: its arguments.
        settings: the backend, the workspace and so on.
        choices: profile, devices and recipe.
        options: options of the scheduler by name; None if omitted.
        sbatch: options of ``sbatch``, as ``KEY=VALUE``.

    Raises:
        RequestError: an option or the job is wrong.
    """
    find(job)
    engine = options.get("engine")
    if engine not in ENGINES:
        message = f'no scheduler is named "{engine}"' if engine else "--engine is required"
        raise RequestError(
            message, where="--engine", remedy=suggest(engine or "", ENGINES, "engines")
        )
    if settings.require_verified:
        note = "note: require_verified checks this machine's images only, not the cluster's"
        print(note, file=sys.stderr)
    platform = backend.load(settings.backend, settings.root, choices.profile)
    default = 1
    if choices.recipe:
        default = recipes.find(choices.recipe, settings.root, settings.backend, job).nodes
    nodes = read_number("nodes", options.get("nodes"), default)
    hours = read_number("hours", options.get("hours"), HOURS)
    steps = launch.make_steps(job, _for_nodes(job, words, nodes), settings, choices)
    plan = steps.plan
    if settings.registry:
        plan = replace(plan, image=f"{settings.registry}/{plan.image}")
    if groups := options.get("groups"):
        plan = replace(plan, groups=tuple(groups.split(",")))
    run = launch.run_folder(plan)
    spec = JobSpec(plan, platform, nodes, hours, run and run.relative_to(plan.workspace))
    return Submission(spec, scheduler_of(engine, settings, options, sbatch), steps)


def _for_nodes(job: str, words: Sequence[str], nodes: int) -> list[str]:
    """Return a job's arguments for one node."""
    # The words after the first other word are a script's own.
    options = takewhile(lambda word: word.startswith("--"), words)
    names = {word.partition("=")[0] for word in options}
    if conflicts := [f"--{name}" for name in _RENDEZVOUS if f"--{name}" in names]:
        message = f"the scheduler sets {', '.join(conflicts)}"
        raise RequestError(message, where=job, remedy="--nodes N sets the number of nodes")
    if nodes > 1 and issubclass(OPTIONS[job], NodeOptions):
        # For checks of all nodes; the scheduler replaces the values.
        return [*(f"--{name}={value or nodes}" for name, value in _RENDEZVOUS.items()), *words]
    return [*words]


def scheduler_of(
    engine: str,
    settings: Settings,
    options: Mapping[str, str | None] | None = None,
    sbatch: Sequence[str] = (),
) -> Cluster:
    """Return the executor of a scheduler.

    Args:
        engine: name of the scheduler.
        settings: the workspace.
        options: its options by name, for a job to submit.
        sbatch: options of ``sbatch``, for a job to submit.
    """
    options = options or {}
    if engine == "kubernetes":
        from paddle_stacks.executors.kubernetes import Kubernetes
        from paddle_stacks.plan.kubernetes import Placement

        placement = {name: value for name in _PLACEMENT if (value := options.get(name))}
        return Kubernetes(Placement(**placement), options.get("context") or "")
    from paddle_stacks.executors.slurm import Slurm
    from paddle_stacks.plan.slurm import Container

    # Relative to the current folder, which is not the job's.
    file = options.get("image-file")
    container = Container(
        options.get("container") or "docker", Path(file).absolute() if file else None
    )
    return Slurm(settings.workspace, container, tuple(sbatch))


def submit(request: Submission, settings: Settings) -> SubmittedJob:
    """Submit a job, and record it in its run's folder.

    Raises:
        RequestError: a step before it is not done, or a job of the same run has not ended.
        MachineError: the scheduler does not respond, or the job cannot be recorded.
    """
    problems = [
        Problem(f"needed first: {step.produces}", request.spec.plan.job, _command(step))
        for step in request.missing
    ]
    if problems and request.sees_workspace:
        raise RequestError(problems)
    for problem in problems:
        print(f"not checked in the claim: {problem.what}", file=sys.stderr)
    request.scheduler.text(request.spec)  # a plan that no scheduler can run fails first
    if request.sees_workspace:
        launch.check_files(request.spec.plan)
    _refuse_second(request, settings)
    submitted = request.scheduler.submit(request.spec)
    try:
        records.save(request.spec, submitted)
    except OSError as error:
        raise MachineError(
            f"{submitted.id} was submitted to {submitted.engine}, but could not be recorded: "
            f"{error.strerror}",
            where=str(request.spec.plan.workspace / submitted.folder),
            remedy="cancel it with the scheduler's own command, free disk space, submit it again",
        ) from error
    return submitted


def _command(step: Step) -> str:
    """Return the command that does a step."""
    if step.recipe:
        return f"./inv {step.plan.job} --recipe {step.recipe} --backend {step.plan.backend}"
    return f"./inv {shlex.join(step.plan.argv)}"


def _refuse_second(request: Submission, settings: Settings) -> None:
    """Reject a job if another one of the same run has not ended."""
    run = str(request.spec.run or "")
    others = [
        job for job in records.submitted_jobs(request.spec.plan.workspace) if run and job.run == run
    ]
    for other in others[-1:]:
        (row,) = scheduler_of(other.engine, settings).status([other])
        if not row.ended:
            raise RequestError(
                f"job {other.id} of this run is {row.state}",
                where=run,
                remedy=f"./inv cluster.cancel {other.id}, or another run: --name NAME",
            )


def status(id: str | None, settings: Settings) -> list[tuple[SubmittedJob, JobStatus]]:
    """Return the submitted jobs with their states, the oldest first.

    Args:
        id: id of one job; None for all.
        settings: the workspace.
    """
    workspace = settings.workspace
    jobs = [records.find(id, workspace)] if id else records.submitted_jobs(workspace)
    rows: list[tuple[SubmittedJob, JobStatus]] = []
    for engine in dict.fromkeys(job.engine for job in jobs):
        own = [job for job in jobs if job.engine == engine]
        rows += zip(own, scheduler_of(engine, settings).status(own), strict=True)
    return sorted(rows, key=lambda pair: pair[0].when)


def table(rows: Sequence[tuple[SubmittedJob, JobStatus]]) -> list[str]:
    """Return the jobs as lines of a table, with a heading."""
    lines = [("ID", "ENGINE", "JOB", "RUN", "STATE", "TIME", "NODES", "")]
    for job, row in rows:
        restarts = f"restarts: {row.restarts}" if row.restarts else ""
        why = ", ".join(filter(None, [row.why, restarts]))
        nodes = row.nodes or str(job.nodes)
        lines.append(
            (job.id, job.engine, job.job, job.run or "-", row.state, row.elapsed or "-", nodes, why)
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def logs(
    id: str, settings: Settings, rank: int | None = None, *, follow: bool = False
) -> Iterator[str]:
    """Yield the output of a submitted job; arguments as :meth:`Cluster.logs`."""
    job = records.find(id, settings.workspace)
    return scheduler_of(job.engine, settings).logs(job, rank, follow=follow)


def cancel(id: str, settings: Settings) -> None:
    """Cancel a submitted job."""
    job = records.find(id, settings.workspace)
    scheduler_of(job.engine, settings).cancel(job)


def read_number(option: str, text: str | None, default: int) -> int:
    """Return the value of an integer option."""
    if text is None:
        return default
    if not text.isdecimal():
        message = f'--{option} must be an integer, got "{text}"'
        raise RequestError(message, where=f"--{option}", remedy=f"--{option} 1")
    return int(text)

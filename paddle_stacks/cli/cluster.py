"""The tasks that submit jobs to a cluster's scheduler, and manage them."""

from __future__ import annotations

import json as jsons
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.parser.argument import Argument

from paddle_stacks import settings
from paddle_stacks.cli import ROOT, task
from paddle_stacks.cli.jobs import PlanTask, choices_of, verbatim_words, words_of
from paddle_stacks.errors import printable
from paddle_stacks.jobs.catalog import JOBS, find

if TYPE_CHECKING:
    from paddle_stacks.submission import Submission

__all__ = ["collection"]

_OWN = {
    "engine": "What will run it: slurm or kubernetes.",
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
_SLURM = "KEY or KEY=VALUE: an option of sbatch, as partition=dcu; repeatable."
# A plan's own, which say what to do with it, and what this machine's engine is asked.
_NOT_HERE = {"dry-run", "json", "require-verified"}


class ClusterTask(PlanTask):
    """A task about any job, named by its first argument, on a cluster."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the arguments of a plan, and those of a cluster."""
        arguments = super().get_arguments(ignore_unknown_help)
        return [argument for argument in arguments if argument.names[0] not in _NOT_HERE]

    def own_arguments(self) -> list[Argument]:
        """Return the job's name, and what a cluster has to be told."""
        return [
            *super().own_arguments(),
            *(Argument(name, kind=str, help=text) for name, text in _OWN.items()),
            Argument("slurm", kind=list, help=_SLURM),
        ]


def _render(context: Context, /, job: str, **options: Any) -> None:
    """Print the job script for Slurm or Kubernetes.

    ./inv cluster.render pretrain … --engine slurm.
    """
    from paddle_stacks import launch

    request = _request(context, job, options, _settings(options))
    text = request.scheduler.text(request.spec)
    for step in request.missing:
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
    from paddle_stacks import submission

    loaded = _settings(options)
    done = submission.submit(_request(context, job, options, loaded), loaded)
    note = f"submitted to {done.engine}: {job}, nodes: {done.nodes}; see: ./inv cluster.status"
    note += f", ./inv cluster.logs {done.id} --follow; end: ./inv cluster.cancel {done.id}"
    print(note, file=sys.stderr)
    print(done.id)


# Invoke has no argument that stands by itself and may be left out: here it is --id.
@task(help={"id": "A job's number or name. Default: all.", "json": "As JSON."})
def _status(context: Context, id: str | None = None, json: bool = False) -> None:
    """Show the jobs that were submitted from this workspace."""
    from paddle_stacks import submission

    rows = submission.status(id, settings.load(ROOT))
    if json:
        print(jsons.dumps([{**asdict(job), **asdict(row)} for job, row in rows], indent=2))
    elif rows:
        print("\n".join(submission.table(rows)))
    else:
        print("no job was submitted from this workspace", file=sys.stderr)


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
    from paddle_stacks import submission

    number = None if rank is None else submission.read_number("rank", rank, 0)
    for line in submission.logs(id, settings.load(ROOT), number, follow=follow):
        print(printable(line), flush=follow)


@task(positional=["id"], help={"id": "A job's number or name."})
def _cancel(context: Context, id: str) -> None:
    """Cancel a job; a running job saves first."""
    from paddle_stacks import submission

    submission.cancel(id, settings.load(ROOT))
    print(f"cancelled: {id}", file=sys.stderr)


def _settings(options: dict[str, Any]) -> settings.Settings:
    return settings.load(ROOT, {"backend": options.pop("backend", None)})


def _request(
    context: Context, job: str, options: dict[str, Any], loaded: settings.Settings
) -> Submission:
    """Return the request of a command line."""
    from paddle_stacks import submission

    find(job)
    own = {name: options.pop(name, None) for name in _OWN}
    sbatch = options.pop("slurm", None) or []
    for name in _OWN:
        # The job's own option of that name.
        if (value := options.pop(f"{job}_{name}", None)) is not None:
            options[name] = value
    choices = choices_of(options)
    words = words_of(job, options, verbatim_words(context))
    return submission.make_request(job, words, loaded, choices, own, sbatch)


def collection() -> Collection:
    """Return the tasks, as ``cluster.NAME``."""
    group = Collection("cluster")
    group.add_task(ClusterTask(_render, JOBS, name="render"))
    group.add_task(ClusterTask(_submit, JOBS, name="submit"))
    for name, each in (("status", _status), ("logs", _logs), ("cancel", _cancel)):
        group.add_task(each, name=name)
    return group

"""The interface of schedulers, and the records of submitted jobs.

The executor of a scheduler implements :class:`Cluster`. A submitted job is recorded in
its run's folder, so that everyone who shares the workspace can manage it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.ownership import hand_over
from paddle_stacks.plan import Backend, Plan, show

__all__ = [
    "FOLDER",
    "Cluster",
    "JobSpec",
    "JobStatus",
    "SubmittedJob",
    "find",
    "make_folder",
    "save",
    "submitted_jobs",
]

FOLDER = "cluster"
"""The scheduler's folder in a run's folder: records, scripts, logs."""

_NO_RUN = Path("runs", ".jobs")  # for jobs without a run, such as fetch


@dataclass(frozen=True)
class JobSpec:
    """A job to submit.

    Args:
        plan: the plan of one node.
        backend: the plan's backend.
        nodes: number of nodes.
        hours: time limit.
        run: the run's folder, relative to the workspace; None for a job without a run.
    """

    plan: Plan
    backend: Backend
    nodes: int
    hours: int
    run: Path | None = None

    @property
    def folder(self) -> Path:
        """The scheduler's folder, relative to the workspace.

        Runs outside of ``runs/`` use the folder of jobs without a run, because records are
        searched for only in ``runs/``.
        """
        if self.run is None or self.run.parent != Path("runs"):
            return _NO_RUN / FOLDER
        return self.run / FOLDER


@dataclass(frozen=True)
class SubmittedJob:
    """The record of a submitted job.

    Args:
        engine: ``slurm`` or ``kubernetes``.
        id: the scheduler's id or name of the job.
        job: the job's name.
        nodes: number of nodes.
        ranks: processes per node.
        folder: folder of the record, relative to the workspace.
        run: the run's folder, relative to the workspace; empty for a job without a run.
        when: time of submission, ISO 8601 in UTC.
        place: further data that identifies the job, such as the namespace.
    """

    engine: str
    id: str
    job: str
    nodes: int
    ranks: int
    folder: str
    run: str = ""
    when: str = ""
    place: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: JobSpec, engine: str, id: str, **place: str) -> SubmittedJob:
        """Return the record of a job that has just been submitted."""
        return cls(
            engine,
            id,
            spec.plan.job,
            spec.nodes,
            spec.plan.ranks,
            str(spec.folder),
            str(spec.run or ""),
            datetime.now(timezone.utc).isoformat(timespec="seconds"),
            place,
        )


@dataclass(frozen=True)
class JobStatus:
    """The status of a submitted job.

    Args:
        id: the scheduler's id or name of the job.
        state: the scheduler's state, in lower case: ``pending``, ``running``, …
        ended: whether the state is final.
        nodes: names of the allocated nodes; empty if none.
        elapsed: run time as ``1:02:03``; empty if unknown.
        why: why it is pending, or how it ended; may be empty.
        restarts: number of restarts.
    """

    id: str
    state: str
    ended: bool
    nodes: str = ""
    elapsed: str = ""
    why: str = ""
    restarts: int = 0


class Cluster(Protocol):
    """A scheduler.

    Every method raises a :class:`~paddle_stacks.errors.MachineError` if the scheduler does
    not respond or its programs are missing, and a RequestError with the scheduler's message
    if it rejects the request.
    """

    def text(self, spec: JobSpec) -> str:
        """Return the script or documents of a job, which can also be submitted by hand."""

    def submit(self, spec: JobSpec) -> SubmittedJob:
        """Submit a job completely or not at all, and return its record."""

    def status(self, jobs: Sequence[SubmittedJob]) -> list[JobStatus]:
        """Return the status of each job, in order.

        A job that the scheduler no longer knows has the state ``unknown``, unless it left
        its exit status.
        """

    def logs(
        self, job: SubmittedJob, rank: int | None = None, *, follow: bool = False
    ) -> Iterator[str]:
        """Yield the lines of a job's log.

        Args:
            job: the job.
            rank: global rank of a process; None for all nodes, with the node's number
                before each line if there are several.
            follow: continue until the job has ended.
        """

    def cancel(self, job: SubmittedJob) -> None:
        """Stop a job, which can still save; a RequestError if it has already ended."""


def make_folder(spec: JobSpec) -> Path:
    """Create the scheduler's folder, owned by the job's user, and return it."""
    workspace, folder = spec.plan.workspace, spec.plan.workspace / spec.folder
    missing = [p for p in (folder, *folder.parents) if workspace in p.parents and not p.exists()]
    # A job could create a link in runs/ that makes this process write elsewhere.
    top = workspace / spec.folder.parts[0]
    if not folder.resolve().is_relative_to(top.resolve()):
        raise RequestError(
            "a link in the path leads outside of the runs' folder",
            where=str(folder),
            remedy="remove the link, or choose another name for the run: --name NAME",
        )
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        hand_over(path, spec.plan.user)
    return folder


def save(spec: JobSpec, submitted: SubmittedJob) -> Path:
    """Write the record of a submitted job and its plan, and return the file."""
    path = make_folder(spec) / f"{submitted.engine}-{submitted.id}.json"
    with replacing_file(path) as stream:
        record = {**asdict(submitted), "plan": show.as_json(spec.plan)}
        json.dump(record, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    hand_over(path, spec.plan.user)
    return path


def submitted_jobs(workspace: Path) -> list[SubmittedJob]:
    """Return the jobs that were submitted from a workspace, oldest first."""
    jobs = []
    for path in workspace.glob(f"runs/*/{FOLDER}/*.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            record.pop("plan")
            jobs.append(SubmittedJob(**record))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a record, or deleted in the meantime
    return sorted(jobs, key=lambda job: job.when)


def find(id: str, workspace: Path) -> SubmittedJob:
    """Return the submitted job with this id.

    Raises:
        RequestError: no such job was submitted from this workspace.
    """
    matching = [job for job in submitted_jobs(workspace) if job.id == id]
    if matching:
        return matching[-1]
    newest = ", ".join(job.id for job in submitted_jobs(workspace)[-5:]) or "none"
    raise RequestError(
        f"no job {id} was submitted from this workspace",
        where=str(workspace / "runs"),
        remedy=f"list the jobs with ./inv cluster.status; the newest: {newest}",
    )

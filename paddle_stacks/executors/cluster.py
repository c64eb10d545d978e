"""What it takes to run a plan on a cluster: submit it, see it, read it, end it.

A scheduler's executor is a :class:`Cluster`. What was submitted is remembered in the
run's folder, so that whoever has the workspace finds the jobs again.
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
    "Order",
    "Row",
    "Submitted",
    "find",
    "make_folder",
    "remember",
    "remembered",
]

FOLDER = "cluster"
"""The folder in a run's folder for what is a scheduler's: records, scripts, logs."""

_NO_RUN = Path("runs", ".jobs")  # for jobs that have no run, as fetch


@dataclass(frozen=True)
class Order:
    """What is submitted.

    Args:
        plan: one node's part of the job.
        platform: what the plan was made for.
        nodes: how many nodes share the job.
        hours: after which the scheduler ends it.
        run: the run's folder, relative to the workspace; None for a job that has none.
    """

    plan: Plan
    platform: Backend
    nodes: int
    hours: int
    run: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder for what is the scheduler's, relative to the workspace.

        A run that is kept elsewhere than in ``runs/`` is remembered with those that have no
        folder: nobody would look for it there.
        """
        if self.run is None or self.run.parent != Path("runs"):
            return _NO_RUN / FOLDER
        return self.run / FOLDER


@dataclass(frozen=True)
class Submitted:
    """A job that a scheduler has taken.

    Args:
        engine: ``slurm`` or ``kubernetes``.
        id: the scheduler's name for it.
        job: the job's name.
        nodes: how many nodes it asked for.
        ranks: processes on each of them.
        folder: where it is remembered, relative to the workspace.
        run: the run's folder, relative to the workspace; empty for a job that has none.
        when: time of submission, ISO 8601 in UTC.
        place: what else the engine needs to find it again, as a namespace.
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
    def of(cls, order: Order, engine: str, id: str, **place: str) -> Submitted:
        """Return the record of an order that has just been taken."""
        return cls(
            engine,
            id,
            order.plan.job,
            order.nodes,
            order.plan.ranks,
            str(order.folder),
            str(order.run or ""),
            datetime.now(timezone.utc).isoformat(timespec="seconds"),
            place,
        )


@dataclass(frozen=True)
class Row:
    """How a job is.

    Args:
        id: the scheduler's name for it.
        state: the scheduler's word for it, in small letters: ``pending``, ``running``, …
        ended: whether that is for good.
        nodes: the nodes that it has, by name; empty where it has none.
        elapsed: how long it has run, as ``1:02:03``; empty where that is not known.
        why: why it waits, or how it ended; may be empty.
        restarts: how often it was started again.
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

    Every method raises a :class:`~paddle_stacks.errors.MachineError` where the scheduler
    does not answer or its programs are not there, and a RequestError with its own words
    where it refuses.
    """

    def text(self, order: Order) -> str:
        """Return what is submitted, as a person would hand it over by hand."""

    def submit(self, order: Order) -> Submitted:
        """Hand a job over and return what it was taken as; nothing is left where it was not."""

    def status(self, jobs: Sequence[Submitted]) -> list[Row]:
        """Return how each of the jobs is, in their order.

        A job that the scheduler has forgotten has the state ``unknown``, or what it left
        itself of its end.
        """

    def logs(
        self, job: Submitted, rank: int | None = None, *, follow: bool = False
    ) -> Iterator[str]:
        """Yield the lines that a job has written.

        Args:
            job: which.
            rank: of one process, counted over all nodes; None: of the job on every node,
                each line with its node where there are several.
            follow: go on until the job has ended.
        """

    def cancel(self, job: Submitted) -> None:
        """End a job, which may save and leave; of one that has ended: a RequestError."""


def make_folder(order: Order) -> Path:
    """Return the folder for what is the scheduler's, made, and owned by the job's user."""
    workspace, folder = order.plan.workspace, order.plan.workspace / order.folder
    missing = [p for p in (folder, *folder.parents) if workspace in p.parents and not p.exists()]
    # A job can put a link into runs/, by which this process would write somewhere else.
    top = workspace / order.folder.parts[0]
    if not folder.resolve().is_relative_to(top.resolve()):
        raise RequestError(
            "a link leads out of the folder of runs",
            where=str(folder),
            remedy="remove the link, or give the run another name: --name NAME",
        )
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        hand_over(path, order.plan.user)
    return folder


def remember(order: Order, submitted: Submitted) -> Path:
    """Write down what was submitted, with its plan, and return the file."""
    path = make_folder(order) / f"{submitted.engine}-{submitted.id}.json"
    with replacing_file(path) as stream:
        record = {**asdict(submitted), "plan": show.as_json(order.plan)}
        json.dump(record, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    hand_over(path, order.plan.user)
    return path


def remembered(workspace: Path) -> list[Submitted]:
    """Return the jobs that were submitted from a workspace, oldest first."""
    found = []
    for path in workspace.glob(f"runs/*/{FOLDER}/*.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            record.pop("plan")
            found.append(Submitted(**record))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a record of ours, or gone since
    return sorted(found, key=lambda job: job.when)


def find(id: str, workspace: Path) -> Submitted:
    """Return the job of that name.

    Raises:
        RequestError: none was submitted from this workspace.
    """
    known = [job for job in remembered(workspace) if job.id == id]
    if known:
        return known[-1]
    newest = ", ".join(job.id for job in remembered(workspace)[-5:]) or "none"
    raise RequestError(
        f"no job {id} was submitted from this workspace",
        where=str(workspace / "runs"),
        remedy=f"./inv cluster.status lists them; the newest: {newest}",
    )

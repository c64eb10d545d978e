"""Run plans with Slurm: ``sbatch``, ``squeue``, ``sacct`` and ``scancel``.

Logs are files in the run's folder, which the nodes share with this machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paddle_stacks.errors import MachineError, RequestError, StackError
from paddle_stacks.executors.cluster import JobSpec, JobStatus, SubmittedJob, make_folder
from paddle_stacks.ownership import hand_over
from paddle_stacks.plan.slurm import LOG, NODE_LOG, STATUS, Container, as_slurm

__all__ = ["Slurm"]

# Final states (squeue(1), JOB STATE CODES, 22.05). A job that was preempted or lost a node is
# requeued, and then is pending.
_ENDED = frozenset(
    {
        *("boot_fail", "cancelled", "completed", "deadline", "failed", "node_fail"),
        *("out_of_memory", "preempted", "revoked", "timeout"),
    }
)
# Messages of Slurm's programs for a fault of Slurm, not of the request.
_UNAVAILABLE = re.compile(
    r"unable to contact slurm|connection refused|connect failure|socket timed out"
    r"|communication connection|munge|authentication|unable to establish|could not (?:load|find)"
    r"|unable to process configuration|no such file or directory.*slurm\.conf",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(r"invalid job id", re.IGNORECASE)
_FIELDS = ("JobID", "State", "TimeUsed", "NodeList", "Reason", "RestartCnt")
_TICK_SECONDS = 1.0
# How often Slurm is asked whether a job has ended, while its logs are followed.
_TICKS_PER_QUERY = 5
# Slurm's values for "no reason".
_NO_REASON = frozenset({"None", "(null)", ""})


@dataclass(frozen=True)
class Slurm:
    """Slurm, through the programs on this machine.

    Args:
        workspace: the folder that this machine shares with the nodes.
        container: the nodes' container engine and the source of the image.
        options: further options of ``sbatch``, such as ``partition=dcu`` or ``exclusive``.
    """

    workspace: Path
    container: Container = field(default_factory=Container)
    options: tuple[str, ...] = ()

    def text(self, spec: JobSpec) -> str:
        """Return the job's script."""
        return as_slurm(
            spec.plan,
            spec.backend,
            spec.nodes,
            hours=spec.hours,
            folder=spec.folder,
            container=self.container,
        )

    def submit(self, spec: JobSpec) -> SubmittedJob:
        """Submit a job with ``sbatch``, and save a copy of its script.

        Raises:
            RequestError: ``sbatch`` rejects it, with its message.
            MachineError: it is not installed, or Slurm does not respond.
        """
        script = self.text(spec)
        archive = self.container.archive
        if archive is not None and not archive.is_file():
            message, remedy = (
                f"{archive} does not exist",
                "create it as described in docs/clusters.md",
            )
            raise RequestError(message, where="--image-file", remedy=remedy)
        words = [f"--{_option(text)}" for text in self.options]
        folder = make_folder(spec)
        log = str(folder).replace("%", "%%") + "/" + LOG.format(id="%j")
        # Options on the command line override those in the script.
        command = ["sbatch", "--parsable", f"--output={log}", f"--chdir={self.workspace}", *words]
        # The job id, followed by ";" and the cluster's name in a multi-cluster setup.
        id = _run(command, script).strip().splitlines()[-1].partition(";")[0]
        copy = folder / f"slurm-{id}.sh"
        try:
            copy.write_text(script, encoding="utf-8")
            hand_over(copy, spec.plan.user)
        except OSError as error:
            # Only a copy: Slurm has the script in its spool folder.
            print(f"warning: cannot write {copy}: {error.strerror}", file=sys.stderr)
        return SubmittedJob.of(spec, "slurm", id)

    def status(self, jobs: Sequence[SubmittedJob]) -> list[JobStatus]:
        """Return the status of each job, in order.

        Without accounting, Slurm forgets a job minutes after its end. Its status is then
        read from the exit status that it left.

        Raises:
            MachineError: Slurm's programs are not installed, or Slurm does not respond.
        """
        ids = [job.id for job in jobs]
        statuses = _queued(ids)
        missing = [id for id in ids if id not in statuses]
        if missing:
            statuses = {**_accounted(missing), **statuses}
        return [statuses.get(job.id) or self._remembered(job) for job in jobs]

    def logs(
        self, job: SubmittedJob, rank: int | None = None, *, follow: bool = False
    ) -> Iterator[str]:
        """Yield the lines of a job's log, with the node's number if there are several.

        Args:
            job: the job.
            rank: global rank of a process; None for the script and all nodes.
            follow: continue until the job has ended.

        Raises:
            RequestError: there is no such rank, or the job has no output.
        """
        files = self._files(job, rank)
        ended = not follow or self._has_ended(job)
        if ended and not any(file.path().is_file() for file in files):
            (status,) = self.status([job])
            raise RequestError(
                f"job {job.id} has no output; its state is {status.state}",
                where=str(files[-1].path()),
                remedy=f"check ./inv cluster.status --id {job.id} and sacct -j {job.id}",
            )
        ticks = 0
        while True:
            lines = [line for file in files for line in file.lines(whole=ended)]
            yield from lines
            if ended:
                return
            if not lines:
                time.sleep(_TICK_SECONDS)
                ticks += 1
            # Once it has ended, read what it wrote in the meantime.
            ended = ticks % _TICKS_PER_QUERY == 0 and not lines and self._has_ended(job)

    def cancel(self, job: SubmittedJob) -> None:
        """Stop a job; a running one can still save.

        Raises:
            RequestError: it has already ended, or Slurm rejects the request.
            MachineError: Slurm's programs are not installed, or Slurm does not respond.
        """
        (status,) = self.status([job])
        if status.ended:
            raise RequestError(
                f"job {job.id} has already ended: {status.state}",
                where="cluster.cancel",
                remedy="list the running jobs: ./inv cluster.status",
            )
        _run(["scancel", job.id])

    def _remembered(self, job: SubmittedJob) -> JobStatus:
        path = self.workspace / job.folder / STATUS.format(id=job.id)
        if not path.is_file():
            return JobStatus(job.id, "unknown", ended=True, why="Slurm has no record of it")
        status = path.read_text(encoding="ascii", errors="replace").strip()
        state = "completed" if status == "0" else "failed"
        return JobStatus(job.id, state, ended=True, why=f"exit status {status}")

    def _has_ended(self, job: SubmittedJob) -> bool:
        return self.status([job])[0].ended

    def _files(self, job: SubmittedJob, rank: int | None) -> list[_File]:
        folder = self.workspace / job.folder

        def node_log(node: int) -> Path:
            return folder / NODE_LOG.format(id=job.id, node=node)

        if rank is None:
            nodes = range(job.nodes)
            several = job.nodes > 1
            return [
                _File(lambda: folder / LOG.format(id=job.id)),
                *(_File(_fixed(node_log(n)), f"{n}: " if several else "") for n in nodes),
            ]
        world = job.nodes * job.ranks
        if not 0 <= rank < world:
            message = f"expected a rank from 0 to {world - 1}, got {rank}"
            raise RequestError(message, where="--rank", remedy="--rank 0")
        node, local = divmod(rank, job.ranks)
        if world == 1:
            return [_File(_fixed(node_log(0)))]
        run = self.workspace / job.run
        return [_File(lambda: _worker_log(run, node, local, job.nodes) or node_log(node))]


def _fixed(path: Path) -> Callable[[], Path]:
    return lambda: path


def _worker_log(run: Path, node: int, local: int, nodes: int) -> Path | None:
    """Return the log of a process that Paddle's launcher writes; None if it does not exist."""
    name = f"-{node}" if nodes > 1 else ""
    path = run / f"log{name}" / f"workerlog.{local}"
    return path if path.is_file() else None


class _File:
    """A log that is read while it grows.

    Args:
        path: returns the file's path, which can change until the file exists.
        mark: prefix of each line.
    """

    def __init__(self, path: Callable[[], Path], mark: str = "") -> None:
        self.path = path
        self._mark = mark
        self._at = 0
        self._rest = b""

    def lines(self, *, whole: bool) -> list[str]:
        """Return the new lines; an incomplete last line only if ``whole``."""
        try:
            with self.path().open("rb") as stream:
                if stream.seek(0, 2) < self._at:
                    self._at, self._rest = 0, b""  # truncated or replaced
                stream.seek(self._at)
                new = stream.read()
        except OSError:
            return []
        self._at += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        if whole and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        return [self._mark + line.decode("utf-8", errors="replace") for line in lines]


def _option(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]*(=.*)?", text):
        raise RequestError(
            f'expected KEY=VALUE, got "{text}"', where="--slurm", remedy="--slurm partition=dcu"
        )
    return text


def _queued(ids: Sequence[str]) -> dict[str, JobStatus]:
    """Return the jobs that ``squeue`` still lists."""
    columns = ",".join(f"{name}:|" for name in _FIELDS)
    command = ["squeue", "--noheader", "--states=all", f"--jobs={','.join(ids)}"]
    try:
        printed = _run([*command, f"--Format={columns}"])
    except RequestError as error:
        if _UNKNOWN.search(str(error)):
            return {}  # the message if all requested ids are unknown
        raise
    statuses = {}
    for line in printed.splitlines():
        fields = [text.strip() for text in line.split("|")]
        if len(fields) < len(_FIELDS):
            continue
        id, state, elapsed, nodes, reason, restarts = fields[: len(_FIELDS)]
        state = state.lower()
        statuses[id] = JobStatus(
            id,
            state,
            state in _ENDED,
            "" if nodes in _NO_REASON else nodes,
            "" if state == "pending" else elapsed,
            "" if reason in _NO_REASON else reason,
            int(restarts) if restarts.isdecimal() else 0,
        )
    return statuses


def _accounted(ids: Sequence[str]) -> dict[str, JobStatus]:
    """Return the jobs that ``sacct`` lists; empty without accounting."""
    command = ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(ids)}"]
    try:
        printed = _run([*command, "--format=JobIDRaw,State,Elapsed,NodeList,ExitCode"])
    except StackError:
        return {}  # "Slurm accounting storage is disabled", or no sacct
    statuses = {}
    for line in printed.splitlines():
        id, state, elapsed, nodes, code = line.split("|")
        # "CANCELLED by 1000"
        state = state.partition(" ")[0].lower()
        why = f"exit status {code.partition(':')[0]}"
        statuses[id] = JobStatus(
            id, state, state in _ENDED, "" if "None" in nodes else nodes, elapsed, why
        )
    return statuses


def _run(command: Sequence[str], text: str | None = None) -> str:
    """Run one of Slurm's programs and return its output.

    Raises:
        MachineError: it is not installed, or Slurm does not respond.
        RequestError: it rejects the request, with its message.
    """
    try:
        process = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MachineError(
            f"{command[0]} is not installed on this machine",
            remedy="submit on a machine of the cluster, such as its login node; or copy the script"
            " there: ./inv cluster.render … --engine slurm > job.sh",
        ) from error
    if process.returncode == 0:
        return process.stdout
    lines = [
        re.sub(rf"^{command[0]}: (error: )?", "", line) for line in process.stderr.splitlines()
    ]
    # Retries repeat the same message.
    distinct = dict.fromkeys(re.sub(r", attempt number -?\d+$", "", line) for line in lines if line)
    message = "; ".join(distinct) or f"exit status {process.returncode}"
    if _UNAVAILABLE.search(message):
        raise MachineError(
            f"{command[0]} cannot reach Slurm: {message}",
            remedy="check the controller with scontrol ping",
        )
    raise RequestError(
        f"{command[0]}: {message}",
        where=command[0],
        remedy="check the script: ./inv cluster.render … --engine slurm",
    )

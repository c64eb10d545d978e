"""Slurm: ``sbatch``, ``squeue``, ``sacct``, ``scancel``, and the files that a job leaves.

What a job says is in files of the run's folder, which the nodes share with this machine.
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
from paddle_stacks.executors.cluster import Order, Row, Submitted, make_folder
from paddle_stacks.ownership import hand_over
from paddle_stacks.plan.slurm import LOG, NODE_LOG, STATUS, Container, as_slurm

__all__ = ["Slurm"]

# The states that a job does not leave by itself (squeue(1), JOB STATE CODES, 22.05). One
# that was preempted or whose node failed is started again, and then is pending.
_ENDED = frozenset(
    {
        *("boot_fail", "cancelled", "completed", "deadline", "failed", "node_fail"),
        *("out_of_memory", "preempted", "revoked", "timeout"),
    }
)
# What Slurm's programs say when it is Slurm that does not work, and not the request.
_AWAY = re.compile(
    r"unable to contact slurm|connection refused|connect failure|socket timed out"
    r"|communication connection|munge|authentication|unable to establish|could not (?:load|find)"
    r"|unable to process configuration|no such file or directory.*slurm\.conf",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(r"invalid job id", re.IGNORECASE)
_FIELDS = ("JobID", "State", "TimeUsed", "NodeList", "Reason", "RestartCnt")
_TICK_SECONDS = 1.0
# How often Slurm is asked whether a job has ended, while its logs are followed.
_TICKS_BETWEEN_QUESTIONS = 5
# What Slurm says of a job that waits for nothing.
_NO_REASON = frozenset({"None", "(null)", ""})


@dataclass(frozen=True)
class Slurm:
    """The Slurm whose programs are on this machine.

    Args:
        workspace: the folder that this machine shares with the nodes.
        container: how the nodes come by the container.
        options: what ``sbatch`` is told besides, as ``partition=dcu`` or ``exclusive``.
    """

    workspace: Path
    container: Container = field(default_factory=Container)
    options: tuple[str, ...] = ()

    def text(self, order: Order) -> str:
        """Return the script that is submitted."""
        return as_slurm(
            order.plan,
            order.platform,
            order.nodes,
            hours=order.hours,
            folder=order.folder,
            container=self.container,
        )

    def submit(self, order: Order) -> Submitted:
        """Hand a job over to ``sbatch``, and keep its script.

        Raises:
            RequestError: ``sbatch`` refuses it, in its own words.
            MachineError: it is not there, or Slurm does not answer.
        """
        script = self.text(order)
        archive = self.container.archive
        if archive is not None and not archive.is_file():
            what, remedy = f"there is no {archive}", "docs/clusters.md says how it is made"
            raise RequestError(what, where="--image-file", remedy=remedy)
        words = [f"--{_option(text)}" for text in self.options]
        folder = make_folder(order)
        log = str(folder).replace("%", "%%") + "/" + LOG.format(id="%j")
        # What stands here goes before what stands in the script.
        command = ["sbatch", "--parsable", f"--output={log}", f"--chdir={self.workspace}", *words]
        # The number, and after ";" the cluster's name where there are several.
        id = _run(command, script).strip().splitlines()[-1].partition(";")[0]
        copy = folder / f"slurm-{id}.sh"
        try:
            copy.write_text(script, encoding="utf-8")
            hand_over(copy, order.plan.user)
        except OSError as error:
            # The job has its own in Slurm's spool folder.
            print(f"warning: {copy} is not written: {error.strerror}", file=sys.stderr)
        return Submitted.of(order, "slurm", id)

    def status(self, jobs: Sequence[Submitted]) -> list[Row]:
        """Return how each of the jobs is, in their order.

        Slurm forgets a job minutes after its end, unless the site keeps accounts. Then it
        is known by the exit status that it left.

        Raises:
            MachineError: Slurm's programs are not there, or Slurm does not answer.
        """
        ids = [job.id for job in jobs]
        found = _queued(ids)
        missing = [id for id in ids if id not in found]
        if missing:
            found = {**_accounted(missing), **found}
        return [found.get(job.id) or self._remembered(job) for job in jobs]

    def logs(
        self, job: Submitted, rank: int | None = None, *, follow: bool = False
    ) -> Iterator[str]:
        """Yield the lines that a job has written, those of a node with its number.

        Args:
            job: which.
            rank: of one process, counted over all nodes; None: of the script and all nodes.
            follow: go on until the job has ended.

        Raises:
            RequestError: there is no such process, or the job has written nothing.
        """
        files = self._files(job, rank)
        ended = not follow or self._has_ended(job)
        if ended and not any(file.path().is_file() for file in files):
            (row,) = self.status([job])
            raise RequestError(
                f"job {job.id} has written nothing: it is {row.state}",
                where=str(files[-1].path()),
                remedy=f"./inv cluster.status --id {job.id} says how it is; sacct -j {job.id} why",
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
            # What it wrote before it ended is read once more after that.
            ended = ticks % _TICKS_BETWEEN_QUESTIONS == 0 and not lines and self._has_ended(job)

    def cancel(self, job: Submitted) -> None:
        """End a job; while it runs it may save and leave.

        Raises:
            RequestError: it has ended, or Slurm refuses.
            MachineError: Slurm's programs are not there, or Slurm does not answer.
        """
        (row,) = self.status([job])
        if row.ended:
            raise RequestError(
                f"job {job.id} has ended: {row.state}",
                where="cluster.cancel",
                remedy="./inv cluster.status shows what runs",
            )
        _run(["scancel", job.id])

    def _remembered(self, job: Submitted) -> Row:
        path = self.workspace / job.folder / STATUS.format(id=job.id)
        if not path.is_file():
            return Row(job.id, "unknown", ended=True, why="Slurm has forgotten it")
        status = path.read_text(encoding="ascii", errors="replace").strip()
        state = "completed" if status == "0" else "failed"
        return Row(job.id, state, ended=True, why=f"exit status {status}")

    def _has_ended(self, job: Submitted) -> bool:
        return self.status([job])[0].ended

    def _files(self, job: Submitted, rank: int | None) -> list[_File]:
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
            what, remedy = f"there is no rank {rank}", f"from 0 to {world - 1}"
            raise RequestError(what, where="--rank", remedy=remedy)
        node, local = divmod(rank, job.ranks)
        if world == 1:
            return [_File(_fixed(node_log(0)))]
        run = self.workspace / job.run
        return [_File(lambda: _worker_log(run, node, local, job.nodes) or node_log(node))]


def _fixed(path: Path) -> Callable[[], Path]:
    return lambda: path


def _worker_log(run: Path, node: int, local: int, nodes: int) -> Path | None:
    """Return what Paddle's launcher keeps of one process; None where there is no such file."""
    name = f"-{node}" if nodes > 1 else ""
    path = run / f"log{name}" / f"workerlog.{local}"
    return path if path.is_file() else None


class _File:
    """A log that is read as it grows.

    Args:
        path: returns where it is; that can change until it is there.
        mark: what each line begins with.
    """

    def __init__(self, path: Callable[[], Path], mark: str = "") -> None:
        self.path = path
        self._mark = mark
        self._at = 0
        self._rest = b""

    def lines(self, *, whole: bool) -> list[str]:
        """Return the lines that were added; the last one only when it is complete or final."""
        try:
            with self.path().open("rb") as stream:
                if stream.seek(0, 2) < self._at:
                    self._at, self._rest = 0, b""  # another file of that name
                stream.seek(self._at)
                new = stream.read()
        except OSError:
            return []
        self._at += len(new)
        *found, self._rest = (self._rest + new).split(b"\n")
        if whole and self._rest:
            found, self._rest = [*found, self._rest], b""
        return [self._mark + line.decode("utf-8", errors="replace") for line in found]


def _option(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]*(=.*)?", text):
        raise RequestError(
            f'"{text}" is not KEY=VALUE', where="--slurm", remedy="as --slurm partition=dcu"
        )
    return text


def _queued(ids: Sequence[str]) -> dict[str, Row]:
    """Return the jobs that Slurm itself still knows."""
    wanted = ",".join(f"{name}:|" for name in _FIELDS)
    command = ["squeue", "--noheader", "--states=all", f"--jobs={','.join(ids)}"]
    try:
        printed = _run([*command, f"--Format={wanted}"])
    except RequestError as error:
        if _UNKNOWN.search(str(error)):
            return {}  # asked for one only, it says so
        raise
    found = {}
    for line in printed.splitlines():
        fields = [text.strip() for text in line.split("|")]
        if len(fields) < len(_FIELDS):
            continue
        id, state, elapsed, nodes, reason, restarts = fields[: len(_FIELDS)]
        state = state.lower()
        found[id] = Row(
            id,
            state,
            state in _ENDED,
            "" if nodes in _NO_REASON else nodes,
            "" if state == "pending" else elapsed,
            "" if reason in _NO_REASON else reason,
            int(restarts) if restarts.isdecimal() else 0,
        )
    return found


def _accounted(ids: Sequence[str]) -> dict[str, Row]:
    """Return the jobs that the site's accounts know; nothing where it keeps none."""
    command = ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(ids)}"]
    try:
        printed = _run([*command, "--format=JobIDRaw,State,Elapsed,NodeList,ExitCode"])
    except StackError:
        return {}  # "Slurm accounting storage is disabled", or no sacct
    found = {}
    for line in printed.splitlines():
        id, state, elapsed, nodes, code = line.split("|")
        # "CANCELLED by 1000"
        state = state.partition(" ")[0].lower()
        why = f"exit status {code.partition(':')[0]}"
        found[id] = Row(id, state, state in _ENDED, "" if "None" in nodes else nodes, elapsed, why)
    return found


def _run(command: Sequence[str], text: str | None = None) -> str:
    """Run one of Slurm's programs and return what it prints.

    Raises:
        MachineError: it is not on this machine, or Slurm does not answer it.
        RequestError: it refuses; the message is its own.
    """
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MachineError(
            f"there is no {command[0]} on this machine",
            remedy="submit on a machine of the cluster, as its login node; or take the script"
            " there: ./inv cluster.render … --engine slurm > job.sh",
        ) from error
    if done.returncode == 0:
        return done.stdout
    said = [re.sub(rf"^{command[0]}: (error: )?", "", line) for line in done.stderr.splitlines()]
    # What it tries again it says again.
    once = dict.fromkeys(re.sub(r", attempt number -?\d+$", "", line) for line in said if line)
    what = "; ".join(once) or f"it ended with status {done.returncode}"
    if _AWAY.search(what):
        raise MachineError(
            f"Slurm does not answer {command[0]}: {what}",
            remedy="scontrol ping shows whether its controller is there",
        )
    raise RequestError(
        f"{command[0]}: {what}",
        where=command[0],
        remedy="see what is submitted: ./inv cluster.render … --engine slurm",
    )

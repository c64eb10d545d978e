"""Starting a program and seeing it to its end: one process, or several through Paddle's launcher.

Paddle's launcher (3.0.0b2) starts every worker in a session of its own. When it is told to
stop it sends each of them SIGTERM, three times within 0.6 seconds to one that is still there,
and kills them 30 seconds later. When a worker fails it kills the others 3 seconds later.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from entrypoints import meeting
from entrypoints.console import note
from paddle_stacks.errors import JobError, MachineError, Problem, RequestError, Stopped
from paddle_stacks.jobs import platforms

__all__ = [
    "KILL_AFTER_SECONDS",
    "Nodes",
    "carry_out",
    "check_cards",
    "environment",
    "is_launched",
    "launch",
    "launcher",
    "loopback",
]

KILL_AFTER_SECONDS = 40
"""From the signal to stop until what has been started is killed; the host kills after 45."""

# What Paddle's launcher (3.0.0b2) reads from the environment, and prefers to its arguments.
_LAUNCHER_VARIABLES = (
    *("POD_IP", "PADDLE_MASTER", "PADDLE_DEVICES", "PADDLE_NNODES", "PADDLE_NPROC_PER_NODE"),
    *("PADDLE_RANK", "PADDLE_TRAINER_ID", "PADDLE_JOB_ID", "PADDLE_LOG_DIR", "PADDLE_RUN_MODE"),
    *("PADDLE_IPS", "PADDLE_SERVER_NUM", "PADDLE_TRAINER_NUM", "CUDA_VISIBLE_DEVICES"),
)


@dataclass(frozen=True)
class Nodes:
    """The machines that train together.

    Args:
        count: how many.
        master: where they meet; empty for one machine.
        rank: which of them this is; None: they find that out.
    """

    count: int = 1
    master: str = ""
    rank: int | None = None

    @property
    def name(self) -> str:
        """What tells this node's files from another's: empty for one node."""
        if self.count == 1:
            return ""
        return f"-{socket.gethostname() if self.rank is None else self.rank}"

    @classmethod
    def of(cls, arguments: argparse.Namespace, environ: Mapping[str, str]) -> Nodes:
        """Return what the arguments say, or else what a cluster put into the environment.

        Args:
            arguments: with ``nnodes``, ``master`` and ``rank``; None where not said.
            environ: the variables.

        Raises:
            RequestError: it is not complete, or cannot be; all reasons at once.
        """
        count = arguments.nnodes or _number(environ, "PADDLE_NNODES") or 1
        master = arguments.master or environ.get("PADDLE_MASTER", "")
        rank = arguments.rank
        for variable in ("PADDLE_RANK", "PADDLE_TRAINER_ID"):
            rank = _number(environ, variable) if rank is None else rank
        problems = []
        if count > 1 and not re.fullmatch(r"(etcd://)?.+:\d+", master):
            what = f"{count} nodes have to know where they meet"
            remedy = "--master HOST:PORT with an address of node 0, or PADDLE_MASTER"
            problems.append(Problem(what, "--master", remedy))
        if rank is not None and not -1 <= rank < count:
            what = f"there is no node {rank} among {count}"
            problems.append(Problem(what, "--rank", f"from 0 to {count - 1}, on each node another"))
        if problems:
            raise RequestError(problems)
        # The launcher's own -1 means that nobody has said it.
        return cls(count, master if count > 1 else "", None if rank == -1 else rank)


def check_cards(ranks: int, environ: Mapping[str, str]) -> None:
    """Refuse more processes than visible cards: the launcher would start them all the same.

    Args:
        ranks: processes here, each with a card of its own.
        environ: the variables, as they came.

    Raises:
        RequestError: too few are visible.
    """
    if platforms.device(platforms.current()) != "gpu":
        return
    for variable in ("HIP_VISIBLE_DEVICES", "PADDLE_DEVICES"):
        text = environ.get(variable)
        if text is None:
            continue
        cards = [card for card in text.split(",") if card.strip()]
        if len(cards) < ranks:
            raise RequestError(
                f"{ranks} processes need {ranks} cards, and {variable} names {len(cards)}",
                where=f"{variable}={text}",
                remedy=f"--ranks {len(cards)}, or more cards" if cards else "name some cards",
            )


def is_launched(ranks: int, nodes: Nodes) -> bool:
    """Return whether Paddle's launcher has to start it: there is more than one process."""
    return ranks > 1 or nodes.count > 1


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those that Paddle's launcher prefers to its arguments.

    None that says again what has been decided here is left.
    """
    return {name: value for name, value in environ.items() if name not in _LAUNCHER_VARIABLES}


def loopback() -> dict[str, str]:
    """Return the variables by which the processes of a machine without a network meet.

    A container without one cannot resolve its own name, and Gloo, which Paddle starts
    beside RCCL, and instead of it on a CPU, ends with "network …: cannot be obtained".
    """
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return {}


def launcher(ranks: int, nodes: Nodes, logs: Path, job: str) -> list[str]:
    """Return the launcher's command line, which a program and its arguments follow.

    Args:
        ranks: processes here.
        nodes: the machines.
        logs: the folder for ``workerlog.N``, what each process says.
        job: what its nodes call it; the same on all.
    """
    line = [sys.executable, "-u", "-m", "paddle.distributed.launch"]
    line += ["--log_dir", str(logs), "--job_id", job]
    if platforms.device(platforms.current()) == "gpu":
        line += ["--devices", ",".join(str(index) for index in range(ranks))]
    else:
        line += ["--nproc_per_node", str(ranks)]
    if nodes.count > 1:
        line += ["--nnodes", str(nodes.count), "--master", nodes.master]
        line += ["--rank", str(nodes.rank)] if nodes.rank is not None else []
    return line


def launch(
    program: Sequence[str],
    variables: Mapping[str, str],
    what: str,
    logs: Path,
    *,
    ranks: int,
    nodes: Nodes,
    job: str,
    output: Path | None = None,
) -> None:
    """Run a program in several processes through Paddle's launcher, to the end.

    Args:
        program: a Python file and its arguments.
        variables: of the processes, as :func:`environment` returns them.
        what: what it is, for messages.
        logs: the folder for ``workerlog.N``.
        ranks: processes here.
        nodes: the machines.
        job: what its nodes call it; the same on all.
        output: as in :func:`carry_out`.

    Raises:
        MachineError: as :func:`carry_out`, or the nodes cannot meet.
        JobError, Stopped: as :func:`carry_out`.
    """
    nodes = meeting.with_address(nodes)
    argv = [*launcher(ranks, nodes, logs, job), *program]
    carry_out(argv, variables, what, logs, output=output)


def carry_out(
    argv: Sequence[str],
    variables: Mapping[str, str],
    what: str,
    logs: Path,
    *,
    output: Path | None = None,
) -> None:
    """Start a command, hand signals on, and return when it has ended well.

    Told to stop, it has :data:`KILL_AFTER_SECONDS` to end; then it is killed, with all
    that it has started.

    Args:
        argv: the command line.
        variables: all of its environment.
        what: what it is, for messages.
        logs: the folder where each process's output is, if there are several.
        output: the file to which its own output is added; None: it goes where ours does.

    Raises:
        MachineError: it cannot be started.
        JobError: it failed.
        Stopped: a signal came, or it died of one.
    """
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def hand_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if child is not None:
            _signal(child, signal.SIGTERM)
        signal.alarm(KILL_AFTER_SECONDS)

    def give_up(signum: int, frame: FrameType | None) -> None:
        if child is not None:
            _kill(child)

    watched = {signal.SIGTERM: hand_on, signal.SIGINT: hand_on, signal.SIGALRM: give_up}
    before = {signum: signal.signal(signum, handler) for signum, handler in watched.items()}
    try:
        with _opened(output) as stream:
            # A session of its own: a terminal's signals go to us alone.
            child = subprocess.Popen(
                argv,
                env=dict(variables),
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        if received:  # between the first line and this one
            _signal(child, signal.SIGTERM)
        status = child.wait()
    except OSError as error:
        raise MachineError(f"cannot start {argv[0]}: {error.strerror}") from error
    finally:
        signal.alarm(0)
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if status == 0:
        return
    if received:
        raise Stopped(received[0], f"stopped: {what} has been ended")
    raise _ended(status, what, logs, output)


def _ended(status: int, what: str, logs: Path, output: Path | None) -> JobError | Stopped:
    """Return the error for a command that ended with a status other than 0, by itself."""
    where = f"; each process's output is in {logs}/workerlog.*" if logs.is_dir() else ""
    if status < 0:
        meaning = ": the memory may not have sufficed" if status == -signal.SIGKILL else ""
        return Stopped(-status, f"{what} was killed by signal {-status}{meaning}{where}")
    return JobError(
        f"{what} ended with status {status}",
        where=str(logs) if where else "",
        remedy=f"what it says is {f'in {output}' if output else 'above'}{where}",
    )


@contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes] | None]:
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        yield stream


def _signal(child: subprocess.Popen[bytes], signum: int) -> None:
    try:
        os.killpg(child.pid, signum)
    except ProcessLookupError:
        note("it has ended already")


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that came of it, whatever session that is in."""
    for pid in [*_descendants(child.pid), child.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(pid: int) -> list[int]:
    """Return the processes that came of one, by their parents in ``/proc``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # PID (NAME) STATE PARENT …; a name can hold anything.
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has ended in the meantime
        children.setdefault(parent, []).append(int(entry.parent.name))
    found: list[int] = []
    unseen = [pid]
    while unseen:
        own = children.get(unseen.pop(), [])
        found += own
        unseen += own
    return found


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise RequestError(f'{name} is "{text}", not a number', where="environment") from None

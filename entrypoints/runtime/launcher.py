"""Starting a program and seeing it to its end: one process, or several through Paddle's launcher.

Paddle's launcher (3.0.0b2) starts every worker in a session of its own. When it is told to
stop it sends each of them SIGTERM, three times within 0.6 seconds to one that is still there,
and kills them 30 seconds later. When a worker fails it kills the others 3 seconds later.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from entrypoints.runtime.console import note, warn
from entrypoints.runtime.nodes import Nodes
from entrypoints.runtime.rendezvous import PORTS, Loss, Peers, meet
from paddle_stacks.errors import JobError, MachineError, RequestError, Stopped
from paddle_stacks.jobs import platforms

__all__ = [
    "AS_MODULE",
    "KILL_AFTER_SECONDS",
    "NodeLostError",
    "Nodes",
    "carry_out",
    "check_cards",
    "environment",
    "is_launched",
    "launch",
    "launcher",
    "loopback",
]

AS_MODULE = Path(__file__).with_name("as_module.py")
"""Runs a module of a package; Paddle's launcher can only start files."""

KILL_AFTER_SECONDS = 40
"""From the signal to stop until what has been started is killed; the host kills after 45."""

# What Paddle's launcher (3.0.0b2, context/args_envs.py) reads from the environment and
# prefers to its arguments, as far as it is decided here.
_LAUNCHER_VARIABLES = (
    *("POD_IP", "PADDLE_MASTER", "PADDLE_DEVICES", "PADDLE_NNODES", "PADDLE_NPROC_PER_NODE"),
    *("PADDLE_RANK", "PADDLE_TRAINER_ID", "PADDLE_JOB_ID", "PADDLE_LOG_DIR", "PADDLE_RUN_MODE"),
    *("PADDLE_IPS", "PADDLE_SERVER_NUM", "PADDLE_TRAINER_NUM", "PADDLE_SERVERS_ENDPOINTS"),
    *("PADDLE_TRAINERS_ENDPOINTS", "PADDLE_SORT_IP", "PADDLE_START_PORT", "PADDLE_MAX_RESTART"),
    *("PADDLE_ELASTIC_LEVEL", "PADDLE_ELASTIC_TIMEOUT", "PADDLE_AUTO_PARALLEL_CONFIG"),
    *("PADDLE_AUTO_CLUSTER", "CUDA_VISIBLE_DEVICES"),
)

# The launcher speaks HTTP with node 0's, and a proxy cannot reach that. It drops the first
# two itself, for its workers as well.
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")

# From a peer's loss, or its failure, until what waits for it is killed: to say what it sees.
_LOST_SECONDS = 10
_LOOK_SECONDS = 0.5
# How long a failure waits for another node's, which can be its cause.
_CAUSE_SECONDS = 3


class NodeLostError(JobError):
    """The run has ended because another node was lost or failed (status 5)."""


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
    if environ.get("CUDA_VISIBLE_DEVICES", "0").strip() == "":
        # HIP reads it beside its own variable.
        raise RequestError(
            "CUDA_VISIBLE_DEVICES is empty, which hides all cards",
            where="CUDA_VISIBLE_DEVICES=",
            remedy="unset CUDA_VISIBLE_DEVICES, or docker run without -e CUDA_VISIBLE_DEVICES=",
        )
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


def _without_proxies(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.lower() not in _PROXIES}


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
    same: Mapping[str, str] | None = None,
    output: Path | None = None,
) -> None:
    """Run a program in several processes through Paddle's launcher, to the end.

    Several nodes meet first (:mod:`entrypoints.runtime.rendezvous`). A node that is told to
    stop tells the others; one that is lost, or fails, ends the run on all.

    Args:
        program: a Python file and its arguments.
        variables: of the processes, as :func:`environment` returns them.
        what: what it is, for messages.
        logs: the folder for ``workerlog.N``.
        ranks: processes here.
        nodes: the machines.
        job: what its nodes call it; the same on all.
        same: what else has to be the same on all nodes, by what it is called.
        output: as in :func:`carry_out`.

    Raises:
        RequestError: the nodes were told what does not go together.
        MachineError: the nodes did not meet, or the launcher cannot be started.
        NodeLostError: another node was lost, or failed.
        JobError: it failed.
        Stopped: a signal came, here or to another node, or it died of one.
    """
    with meet(nodes, ranks, job, same) as peers:
        if peers is not None:
            nodes, variables = peers.nodes, _without_proxies(variables)
        argv = [*launcher(ranks, nodes, logs, job), *program]
        carry_out(argv, variables, what, logs, output=output, peers=peers)


def carry_out(
    argv: Sequence[str],
    variables: Mapping[str, str],
    what: str,
    logs: Path,
    *,
    output: Path | None = None,
    peers: Peers | None = None,
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
        peers: the other nodes.

    Raises:
        MachineError: it cannot be started.
        NodeLostError: another node was lost, or failed.
        JobError: it failed.
        Stopped: a signal came, or it died of one.
    """
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None
    is_killed = False

    def hand_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if child is not None:
            _signal(child, signal.SIGTERM)
        signal.alarm(KILL_AFTER_SECONDS)

    def give_up(signum: int, frame: FrameType | None) -> None:
        nonlocal is_killed
        is_killed = True
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
        status = _wait(child, peers, received, lambda: hand_on(signal.SIGTERM, None))
    except OSError as error:
        raise MachineError(
            f"cannot start {argv[0]}: {error.strerror}",
            remedy="check that the program is in the image, and may be run",
        ) from error
    finally:
        signal.alarm(0)
        for signum, handler in before.items():
            signal.signal(signum, handler)
    # What it started is killed with it, and it may take that for a good end.
    if status == 0 and not is_killed:
        return
    if received:
        by = f": {peers.stopped_by} was told to stop" if peers and peers.stopped_by else ""
        raise Stopped(received[0], f"stopped: {what} has been ended{by}")
    if peers is not None and peers.loss is not None:
        raise _lost(peers.loss, what, logs, output)
    raise _ended(status, what, logs, output, "" if peers is None else _also_failed(peers, status))


def _wait(
    child: subprocess.Popen[bytes],
    peers: Peers | None,
    received: list[int],
    stop: Callable[[], None],
) -> int:
    """Return the status of a process when it has ended, or could not go on and was killed.

    Args:
        child: the process.
        peers: the other nodes.
        received: the signals that have come; it grows.
        stop: what is done when another node is told to stop.
    """
    if peers is None:
        return child.wait()
    announced = started = False
    start_by = time.monotonic() + peers.nodes.wait
    kill_at = float("inf")
    while child.poll() is None:
        peers.tend(_LOOK_SECONDS)
        now = time.monotonic()
        if received and not announced:
            announced = True
            peers.stop()
        elif peers.stopped_by and not received:
            note(f"{peers.stopped_by} was told to stop, and this node stops with it")
            announced = True
            stop()
        if peers.loss is not None and kill_at == float("inf"):
            warn(f"{peers.loss.node} {peers.loss.why}: this node cannot go on without it")
            kill_at = now + _LOST_SECONDS
        started = started or bool(_descendants(child.pid))
        if now > kill_at or (now > start_by and not started):
            _kill(child)
    if not started and time.monotonic() > start_by:
        raise MachineError(
            "Paddle's launcher does not reach that of node 0",
            where=peers.nodes.master,
            remedy=f"{PORTS}, in both directions",
        )
    return child.wait()


def _lost(loss: Loss, what: str, logs: Path, output: Path | None) -> NodeLostError:
    """Return the error for a run that another node has ended."""
    return NodeLostError(
        f"{what} has ended, since {loss.node} {loss.why}",
        where=str(output or logs),
        remedy=f"look at {loss.node} first; when all nodes are started again, what saves "
        "checkpoints goes on from the last one",
    )


def _also_failed(peers: Peers, status: int) -> str:
    """Return which other node has failed, after this one has said that it did."""
    peers.fail(f"failed with status {status}")
    end = time.monotonic() + _CAUSE_SECONDS
    while peers.loss is None and time.monotonic() < end:
        peers.tend(_LOOK_SECONDS)
    return "" if peers.loss is None else f"; {peers.loss.node} {peers.loss.why} at the same time"


def _ended(
    status: int, what: str, logs: Path, output: Path | None, more: str
) -> JobError | Stopped:
    """Return the error for a command that ended with a status other than 0, by itself."""
    launched = logs.is_dir()
    where = f"; each process's output is in {logs}/workerlog.*" if launched else ""
    # The launcher ends with -N, which is 256-N, where a worker of its was killed by signal N.
    killer = -status if status < 0 else 256 - status if launched and status > 191 else 0
    meaning = ": the memory may not have sufficed" if killer == signal.SIGKILL else ""
    if status < 0:
        return Stopped(killer, f"{what} was killed by signal {killer}{meaning}{where}{more}")
    ended = f"a process was killed by signal {killer}{meaning}" if killer else f"status {status}"
    return JobError(
        f"{what} ended with {ended}{more}",
        where=str(logs) if launched else "",
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
    pids: list[int] = []
    unseen = [pid]
    while unseen:
        own = children.get(unseen.pop(), [])
        pids += own
        unseen += own
    return pids

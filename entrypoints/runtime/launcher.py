"""Start a program and wait for it: one process, or several through Paddle's launcher.

Paddle's launcher (3.0.0b2) starts every worker in a session of its own. On SIGTERM it sends
SIGTERM to each of them, three times within 0.6 seconds if it is still running, and kills them
after 30 seconds. When a worker fails, it kills the others after 3 seconds.
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
from entrypoints.runtime.rendezvous import PORTS, Loss, RendezvousGroup, join
from paddle_stacks.errors import JobError, MachineError, RequestError, Stopped
from paddle_stacks.jobs import backends

__all__ = [
    "AS_MODULE",
    "KILL_AFTER_SECONDS",
    "NodeLostError",
    "Nodes",
    "check_devices",
    "environment",
    "is_launched",
    "launch",
    "launcher",
    "loopback",
    "run_command",
]

AS_MODULE = Path(__file__).with_name("as_module.py")
"""Runs a module of a package; Paddle's launcher can only start files."""

KILL_AFTER_SECONDS = 40
"""Seconds between a signal to stop and SIGKILL; the host sends SIGKILL after 45."""

# Variables that Paddle's launcher (3.0.0b2, context/args_envs.py) prefers to its arguments,
# which are set here.
_LAUNCHER_VARIABLES = (
    *("POD_IP", "PADDLE_MASTER", "PADDLE_DEVICES", "PADDLE_NNODES", "PADDLE_NPROC_PER_NODE"),
    *("PADDLE_RANK", "PADDLE_TRAINER_ID", "PADDLE_JOB_ID", "PADDLE_LOG_DIR", "PADDLE_RUN_MODE"),
    *("PADDLE_IPS", "PADDLE_SERVER_NUM", "PADDLE_TRAINER_NUM", "PADDLE_SERVERS_ENDPOINTS"),
    *("PADDLE_TRAINERS_ENDPOINTS", "PADDLE_SORT_IP", "PADDLE_START_PORT", "PADDLE_MAX_RESTART"),
    *("PADDLE_ELASTIC_LEVEL", "PADDLE_ELASTIC_TIMEOUT", "PADDLE_AUTO_PARALLEL_CONFIG"),
    *("PADDLE_AUTO_CLUSTER", "CUDA_VISIBLE_DEVICES"),
)

# The launchers talk HTTP to that of node 0, which a proxy cannot reach. They drop the first two
# themselves, for their workers as well.
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")

# From the loss of a node until the processes that wait for it are killed: they may log it first.
_LOST_SECONDS = 10
_POLL_SECONDS = 0.5
# How long to wait after a failure for that of another node, which may be its cause.
_CAUSE_SECONDS = 3


class NodeLostError(JobError):
    """The run ended because another node was lost or failed (status 5)."""


def check_devices(ranks: int, environ: Mapping[str, str]) -> None:
    """Reject more processes than visible devices; Paddle's launcher would start them.

    Args:
        ranks: processes here, each with its own device.
        environ: the environment variables.

    Raises:
        RequestError: too few devices are visible.
    """
    if backends.device(backends.current()) != "gpu":
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
        devices = [device for device in text.split(",") if device.strip()]
        if len(devices) < ranks:
            raise RequestError(
                f"{ranks} processes require {ranks} devices, but {variable} lists {len(devices)}",
                where=f"{variable}={text}",
                remedy=f"use --ranks {len(devices)}, or list more devices"
                if devices
                else f"unset {variable}, or list the devices to use",
            )


def is_launched(ranks: int, nodes: Nodes) -> bool:
    """Return whether a job needs Paddle's launcher: it has more than one process."""
    return ranks > 1 or nodes.count > 1


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those that Paddle's launcher prefers to its arguments."""
    return {name: value for name, value in environ.items() if name not in _LAUNCHER_VARIABLES}


def _without_proxies(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.lower() not in _PROXIES}


def loopback() -> dict[str, str]:
    """Return the variables that make processes use the loopback interface if there is no network.

    A container without a network cannot resolve its own name. Gloo, which Paddle starts beside
    RCCL, and instead of it on a CPU, then fails with "network …: cannot be obtained".
    """
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return {}


def launcher(ranks: int, nodes: Nodes, logs: Path, job: str) -> list[str]:
    """Return the launcher's command line; a program and its arguments must be appended.

    Args:
        ranks: processes here.
        nodes: the machines.
        logs: the folder for ``workerlog.N``, the output of each process.
        job: the run's name, the same on all nodes.
    """
    line = [sys.executable, "-u", "-m", "paddle.distributed.launch"]
    line += ["--log_dir", str(logs), "--job_id", job]
    if backends.device(backends.current()) == "gpu":
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
    label: str,
    logs: Path,
    *,
    ranks: int,
    nodes: Nodes,
    job: str,
    same: Mapping[str, str] | None = None,
    output: Path | None = None,
) -> None:
    """Run a program in several processes through Paddle's launcher, to the end.

    Several nodes connect first (:mod:`entrypoints.runtime.rendezvous`). A signal to stop on one
    node stops all nodes; a lost or failed node ends the run on all of them.

    Args:
        program: a Python file and its arguments.
        variables: the processes' environment, as :func:`environment` returns it.
        label: its name in messages.
        logs: the folder for ``workerlog.N``.
        ranks: processes here.
        nodes: the machines.
        job: the run's name, the same on all nodes.
        same: further settings that must be equal on all nodes, by name.
        output: as in :func:`run_command`.

    Raises:
        RequestError: settings of the nodes contradict each other.
        MachineError: nodes are missing, or the launcher cannot be started.
        NodeLostError: another node was lost, or failed.
        JobError: the program failed.
        Stopped: this or another node received a signal, or the program was killed by one.
    """
    with join(nodes, ranks, job, same) as group:
        if group is not None:
            nodes, variables = group.nodes, _without_proxies(variables)
        argv = [*launcher(ranks, nodes, logs, job), *program]
        run_command(argv, variables, label, logs, output=output, group=group)


def run_command(
    argv: Sequence[str],
    variables: Mapping[str, str],
    label: str,
    logs: Path,
    *,
    output: Path | None = None,
    group: RendezvousGroup | None = None,
) -> None:
    """Start a command, forward signals to it, and return when it has succeeded.

    After a signal it has :data:`KILL_AFTER_SECONDS` to end; then it and its descendants are
    killed.

    Args:
        argv: the command line.
        variables: its complete environment.
        label: its name in messages.
        logs: the folder with each process's output, if there are several.
        output: a file to append its output to; None for this process's own streams.
        group: the connected nodes, if there are several.

    Raises:
        MachineError: the command cannot be started.
        NodeLostError: another node was lost, or failed.
        JobError: the command failed.
        Stopped: this process received a signal, or the command was killed by one.
    """
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None
    is_killed = False

    def forward(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if child is not None:
            _signal(child, signal.SIGTERM)
        signal.alarm(KILL_AFTER_SECONDS)

    def kill(signum: int, frame: FrameType | None) -> None:
        nonlocal is_killed
        is_killed = True
        if child is not None:
            _kill(child)

    watched = {signal.SIGTERM: forward, signal.SIGINT: forward, signal.SIGALRM: kill}
    before = {signum: signal.signal(signum, handler) for signum, handler in watched.items()}
    try:
        with _opened(output) as stream:
            # A session of its own, so that a terminal's signals reach this process only.
            child = subprocess.Popen(
                argv,
                env=dict(variables),
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        if received:  # before the child existed
            _signal(child, signal.SIGTERM)
        status = _wait(child, group, received, lambda: forward(signal.SIGTERM, None))
    except OSError as error:
        raise MachineError(
            f"cannot start {argv[0]}: {error.strerror}",
            remedy="check that the program is in the image and executable",
        ) from error
    finally:
        signal.alarm(0)
        for signum, handler in before.items():
            signal.signal(signum, handler)
    # The launcher may report success although its workers were killed.
    if status == 0 and not is_killed:
        return
    if received:
        by = f": {group.stopped_by} received a signal to stop" if group and group.stopped_by else ""
        raise Stopped(received[0], f"stopped: {label} was ended{by}")
    if group is not None and group.loss is not None:
        raise _lost(group.loss, label, logs, output)
    raise _ended(status, label, logs, output, "" if group is None else _also_failed(group, status))


def _wait(
    child: subprocess.Popen[bytes],
    group: RendezvousGroup | None,
    received: list[int],
    stop: Callable[[], None],
) -> int:
    """Wait for a process, or kill it when it cannot continue, and return its exit status.

    Args:
        child: the process.
        group: the connected nodes, if there are several.
        received: the signals received so far; the list grows.
        stop: called when another node received a signal to stop.
    """
    if group is None:
        return child.wait()
    announced = started = False
    start_by = time.monotonic() + group.nodes.wait
    kill_at = float("inf")
    while child.poll() is None:
        group.poll(_POLL_SECONDS)
        now = time.monotonic()
        if received and not announced:
            announced = True
            group.stop()
        elif group.stopped_by and not received:
            note(f"{group.stopped_by} received a signal to stop: this node stops too")
            announced = True
            stop()
        if group.loss is not None and kill_at == float("inf"):
            warn(f"{group.loss.node} {group.loss.why}: this node cannot continue without it")
            kill_at = now + _LOST_SECONDS
        started = started or bool(_descendants(child.pid))
        if now > kill_at or (now > start_by and not started):
            _kill(child)
    if not started and time.monotonic() > start_by:
        raise MachineError(
            "Paddle's launcher cannot reach that of node 0",
            where=group.nodes.master,
            remedy=f"open the ports: {PORTS}, in both directions",
        )
    return child.wait()


def _lost(loss: Loss, label: str, logs: Path, output: Path | None) -> NodeLostError:
    """Return the error for a run that ended because of another node."""
    return NodeLostError(
        f"{label} ended because {loss.node} {loss.why}",
        where=str(output or logs),
        remedy=f"check {loss.node} first, then start all nodes again: a run with checkpoints "
        "continues from the last one",
    )


def _also_failed(group: RendezvousGroup, status: int) -> str:
    """Report this node's failure, and return which other node failed at the same time."""
    group.fail(f"failed with status {status}")
    end = time.monotonic() + _CAUSE_SECONDS
    while group.loss is None and time.monotonic() < end:
        group.poll(_POLL_SECONDS)
    return "" if group.loss is None else f"; {group.loss.node} {group.loss.why} at the same time"


def _ended(
    status: int, label: str, logs: Path, output: Path | None, more: str
) -> JobError | Stopped:
    """Return the error for a command that failed by itself."""
    launched = logs.is_dir()
    where = f"; each process's output is in {logs}/workerlog.*" if launched else ""
    # The launcher exits with -N, which is 256 - N, if a worker was killed by signal N.
    killer = -status if status < 0 else 256 - status if launched and status > 191 else 0
    meaning = ", perhaps for lack of memory" if killer == signal.SIGKILL else ""
    if status < 0:
        return Stopped(killer, f"{label} was killed by signal {killer}{meaning}{where}{more}")
    ended = f"a process was killed by signal {killer}{meaning}" if killer else f"status {status}"
    return JobError(
        f"{label} ended with {ended}{more}",
        where=str(logs) if launched else "",
        remedy=f"its output is {f'in {output}' if output else 'above'}{where}",
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
        note("the process has already ended")


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill a process and its descendants in all sessions."""
    for pid in [*_descendants(child.pid), child.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(pid: int) -> list[int]:
    """Return the descendants of a process, by the parents in ``/proc``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # PID (NAME) STATE PARENT …; a name may contain anything.
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # the process has ended in the meantime
        children.setdefault(parent, []).append(int(entry.parent.name))
    pids: list[int] = []
    unseen = [pid]
    while unseen:
        own = children.get(unseen.pop(), [])
        pids += own
        unseen += own
    return pids

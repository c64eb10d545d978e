"""Start jobs that tests interrupt: in a fork, or in a container of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import runner, warm
from tests.support.runner import HERE, SHARING, SUPPORT, Finished, Running

ROOT = HERE.parents[1]
IMAGE = "paddle-stacks/{}:cpu"
STATUS = {signal.SIGKILL: 137, signal.SIGTERM: 143}
"""The exit status of a job that a signal ended."""
KILLED = STATUS[signal.SIGKILL]
TIMEOUT = 600  # seconds, for jobs that take ten, or three minutes on a machine that is busy
STARTED: list[Running] = []
"""Jobs of the running test; conftest.py ends those that it leaves."""


class Stamped(list[str]):
    """Lines with their times in seconds of the monotonic clock."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, line: str) -> None:
        """Add a new line."""
        self.times.append(time.monotonic())
        super().append(line)


def start(
    argv: Sequence[str],
    workspace: Path,
    *options: str,
    environ: Mapping[str, str] | None = None,
    change: int | None = None,
    hold_at: str | None = None,
    mode: str = "rw",
    image: str | None = None,
    forks: bool = False,
) -> Running:
    """Start a job with the permissions of a plan.

    Args:
        argv: the job and its arguments, or another command.
        workspace: what is mounted.
        options: more of ``docker run``.
        environ: variables of a job with this machine's network; None for no network.
        change: the change of the file system at which it is killed (kill_at_change.py); 0 counts
            the changes.
        hold_at: the line of its log at which it waits (hold_at.py).
        mode: ``ro`` for a read-only workspace.
        image: another image than the job's.
        forks: whether it may run as a fork in a warm container instead of its own container.
    """
    line = list(argv)
    if change is not None:
        line = ["python", f"{SUPPORT}/kill_at_change.py", str(change), *argv]
    if hold_at is not None:
        line = runner.holding(argv, hold_at)
    container = None
    process: subprocess.Popen[str] | warm.WarmProcess
    if forks:
        assert not options and image is None and mode == "rw", "a fork cannot have these"
        process = runner.fork(line, workspace, image=runner.image_of(argv), environ=environ)
    else:
        container = f"paddle-stacks-faults-{uuid.uuid4().hex[:12]}"
        command = ["docker", "run", "--rm", "--name", container, "--read-only", "--tmpfs", "/tmp"]
        command += [*SHARING, *network_options(environ)]
        command += ["--user", f"{os.getuid()}:{os.getgid()}", "--cap-drop", "ALL"]
        command += ["--security-opt", "no-new-privileges", "-v", f"{workspace}:/workspace:{mode}"]
        command += ["-v", f"{HERE}:{SUPPORT}:ro"]
        command += [*options, image or IMAGE.format(runner.image_of(argv)), *line]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    running = Running(process, container, Stamped())
    STARTED.append(running)
    return running


def network_options(environ: Mapping[str, str] | None) -> list[str]:
    """Return the options of ``docker run`` for a job with these variables."""
    if not environ:
        return ["--network", "none"]
    variables = [word for name, value in environ.items() for word in ("-e", f"{name}={value}")]
    return ["--network", "host", *variables]


def run(argv: Sequence[str], workspace: Path, *options: str, **more: object) -> Finished:
    """Run a job to its end; see :func:`start`."""
    return start(argv, workspace, *options, **more).wait(TIMEOUT)  # type: ignore[arg-type]


def hurt(running: Running, by: signal.Signals = signal.SIGKILL) -> None:
    """Signal a job, even if its container is still being created, but not if it has ended."""
    while running.process.poll() is None:
        if running.container is None:
            running.send(by)
            return
        command = ["docker", "kill", "--signal", by.name, running.container]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.01)

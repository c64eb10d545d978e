"""Start jobs in containers that are hurt, and hurt them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from paddle_stacks.jobs.catalog import JOBS
from tests.support.runner import SHARING, Finished, Running

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
IMAGE = "paddle-stacks/{}:cpu"
STATUS = {signal.SIGKILL: 137, signal.SIGTERM: 143}
"""What a job ends with that a signal ended."""
KILLED = STATUS[signal.SIGKILL]
TIMEOUT = 180  # seconds, for jobs that take three
STARTED: list[Running] = []
"""What the test that is running has begun; conftest.py ends what it leaves."""


class Stamped(list[str]):
    """Lines with the time at which each came, in seconds of the monotonic clock."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, line: str) -> None:
        """Add a line that has just come."""
        self.times.append(time.monotonic())
        super().append(line)


def start(
    argv: Sequence[str],
    workspace: Path,
    *options: str,
    change: int | None = None,
    mode: str = "rw",
    image: str | None = None,
) -> Running:
    """Begin a job in a container with the rights that a plan gives it.

    Args:
        argv: the job and its arguments, or another command.
        workspace: what is mounted.
        options: more of ``docker run``.
        change: the change of the file system at which it dies (kill_at_change.py); 0 counts them.
        mode: ``ro`` where the workspace may only be read.
        image: another image than the job's.
    """
    job = JOBS[argv[0]].image if argv[0] in JOBS else "train"
    name = f"paddle-stacks-faults-{uuid.uuid4().hex[:12]}"
    command = ["docker", "run", "--rm", "--name", name, "--read-only", "--tmpfs", "/tmp"]
    command += SHARING
    command += ["--user", f"{os.getuid()}:{os.getgid()}", "--cap-drop", "ALL"]
    command += ["--security-opt", "no-new-privileges", "-v", f"{workspace}:/workspace:{mode}"]
    if not any(option.startswith("--network") for option in options):
        command += ["--network", "none"]
    line = list(argv)
    if change is not None:
        command += ["-v", f"{HERE}:/faults:ro"]
        line = ["python", "/faults/kill_at_change.py", str(change), *argv]
    process = subprocess.Popen(
        [*command, *options, image or IMAGE.format(job), *line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Running(process, name, Stamped())
    STARTED.append(running)
    return running


def run(argv: Sequence[str], workspace: Path, *options: str, **more: object) -> Finished:
    """Run a job to its end, as :func:`start` begins it."""
    return start(argv, workspace, *options, **more).wait(TIMEOUT)  # type: ignore[arg-type]


def hurt(running: Running, by: signal.Signals = signal.SIGKILL) -> None:
    """Signal a container, one that is only just being made too; not one that has ended."""
    while running.process.poll() is None:
        command = ["docker", "kill", "--signal", by.name, str(running.container)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.01)

"""Two programs that do the same training, each in a container, measured from outside."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import report

from paddle_stacks.errors import JobError
from paddle_stacks.jobs.events import ENVIRONMENT_SWITCH, parse
from paddle_stacks.plan import Plan
from paddle_stacks.plan.show import docker_arguments

__all__ = ["BENCH", "Run", "command", "other_command", "watched", "yardstick"]

BENCH = Path(__file__).resolve().parent
_DEBIAN_PYTHON = "3.11"  # /usr/bin/python3 of the images


@dataclasses.dataclass(frozen=True)
class Run:
    """The measurements of one training.

    Args:
        start: seconds from the start of the process or container to its first step's end.
        seconds: of each later step.
        start_cpu: processor seconds until the first step's end.
        cpu: processor seconds of each later step.
        peak_mib: the sum of the peak resident memory of its processes.
        losses: of each step.
    """

    start: float
    seconds: list[float]
    start_cpu: float
    cpu: list[float]
    peak_mib: int
    losses: list[float]


def watched(plan: Plan, line: Sequence[str]) -> Run:
    """Run a training in a container and return its measurements.

    Args:
        plan: of the container.
        line: the command line; it prints a line per step, JSON or an event.

    Raises:
        JobError: it failed.
    """
    stamps, cpu, losses, other = [], [], [], []
    peak = 0
    began = time.monotonic()
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            loss = _step_loss(text)
            if loss is None:
                other.append(text)
                continue
            stamps.append(time.monotonic())
            pids = _processes(plan)
            cpu.append(sum(map(_cpu_seconds, pids)))
            peak = max(peak, sum(map(_peak_mib, pids)))
            losses.append(loss)
    if process.returncode or not losses:
        message = "".join(other[-5:]).strip()
        raise JobError(
            f"status {process.returncode}: {message}",
            where=" ".join(line[-4:]),
            remedy="run the command that `at` shows by itself",
        )
    return Run(stamps[0] - began, _differences(stamps), cpu[0], _differences(cpu), peak, losses)


def _step_loss(text: str) -> float | None:
    event = parse(text.rstrip("\n"))
    if event:
        return float(event.fields["loss"]) if event.kind == "step" else None
    return float(json.loads(text)["loss"]) if text.startswith('{"step"') else None


def _cpu_seconds(pid: int) -> float:
    """Return user and system time of a process, in seconds (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def _differences(values: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(values)]


def _processes(plan: Plan) -> list[int]:
    """Return the descendants of tini, the container's first process."""
    line = ["docker", "inspect", "--format={{.State.Pid}}", plan.name]
    first = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    processes, left = [], [first]
    while left:
        pid = left.pop()
        children = [
            child
            for path in Path(f"/proc/{pid}/task").glob("*/children")
            for child in path.read_text().split()
        ]
        processes += map(int, children)
        left += children
    return processes


def command(
    plan: Plan, threads: int, *, argv: Sequence[str] = (), options: Sequence[str] = ()
) -> list[str]:
    """Return the plan's ``docker run`` line with the benchmark's threads.

    Args:
        plan: the job.
        threads: for OpenMP and the math library.
        argv: instead of the job, another command.
        options: more options of ``docker run``.
    """
    words = [word for group in docker_arguments(plan) for word in group]
    arguments = [f"--env=OMP_NUM_THREADS={threads}", f"--env={ENVIRONMENT_SWITCH}=1", *options]
    image = words.index(plan.image)
    return [*words[:2], *arguments, *words[2 : image + 1], *(argv or words[image + 1 :])]


def other_command(
    plan: Plan, threads: int, packages: Path, script: str, *arguments: str
) -> list[str]:
    """Return the line that runs the other side's script in a container like the plan's.

    Args:
        plan: the job that it is compared with.
        threads: for OpenMP and the math library.
        packages: the folder of :func:`yardstick`.
        script: beside this file.
        arguments: of the script.
    """
    options = [f"--mount=type=bind,readonly,source={BENCH},target=/bench"]
    options += [f"--mount=type=bind,readonly,source={packages},target=/packages"]
    options += ["--env=PYTHONPATH=/packages", "--entrypoint=/usr/bin/tini"]
    argv = ["--", "/usr/bin/python3", f"/bench/{script}", *arguments]
    return command(plan, threads, argv=argv, options=options)


def yardstick(folder: Path) -> Path:
    """Create a folder with torch, transformers and peft for Debian's Python, and return it."""
    requirements = BENCH / "requirements.txt"
    made_from = folder / "made-from.txt"
    if not made_from.is_file() or made_from.read_text() != requirements.read_text():
        report.say(f"making {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
        install += [f"--python-version={_DEBIAN_PYTHON}", f"--target={folder}"]
        subprocess.run([*install, f"--requirement={requirements}"], check=True)
        shutil.copy(requirements, made_from)
    return folder

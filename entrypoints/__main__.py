"""The entry point of containers: runs a job by its name, or any other command unchanged."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

from entrypoints.runtime import mount_check
from paddle_stacks.errors import RequestError, StackError, Stopped, render
from paddle_stacks.jobs import backends
from paddle_stacks.jobs.catalog import JOBS, find

_SIMULATED = (
    "dcu-sim: a simulated DCU that computes on the CPU; results say nothing about real devices"
)
USAGE = "usage: JOB [ARGUMENT …]   or any other command"


def main(argv: list[str]) -> int:
    """Run the job or the command in ``argv``, and return its exit status."""
    debug = "--debug" in argv or os.environ.get("PADDLE_STACKS_DEBUG") == "1"
    argv = [word for word in argv if word != "--debug"] if argv and argv[0] in JOBS else argv
    try:
        return _dispatch(argv)
    except StackError as error:
        if debug:
            traceback.print_exc()
        print(render(error, colour=_colour()), file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(render(Stopped(signal.SIGINT)), file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if debug:
            traceback.print_exc()
        fault = StackError(
            f"{type(error).__name__}: {error}", remedy="run again with --debug for a traceback"
        )
        print(render(fault, colour=_colour()), file=sys.stderr)
        return fault.status


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_jobs_table())
        return 0
    name, arguments = argv[0], argv[1:]
    if name in JOBS:
        _disable_workspace_imports()
        mount_check.check(name, arguments)
        if backends.current() == "dcu-sim" and "--help" not in arguments:
            print(_SIMULATED, file=sys.stderr, flush=True)
        status: int = importlib.import_module(f"entrypoints.{name.replace('-', '_')}").main(
            arguments
        )
        return status
    if shutil.which(name):
        os.execvp(name, argv)
    try:
        find(name)
    except RequestError as error:
        raise RequestError(
            f'"{name}" is neither a job nor a command', remedy=error.problems[0].remedy
        ) from None
    raise AssertionError("unreachable: a known job is dispatched above")


def _disable_workspace_imports() -> None:
    """Disable imports from the workspace, in this process and its children."""
    try:
        startup = importlib.import_module("paddle_stacks_startup")
    except ModuleNotFoundError:
        return  # a developer's Python without the start-up module of the images
    startup.refuse_imports(str(Path.cwd()))


def _jobs_table() -> str:
    width = max(map(len, JOBS))
    rows = [f"  {job.name:<{width}}  {job.summary}" for job in JOBS.values()]
    return "\n".join([USAGE, "", "jobs (see JOB --help):", *rows])


def _colour() -> bool:
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ


if __name__ == "__main__":
    exit_status = main(sys.argv[1:])
    # The job has ended: a late signal must not change its exit status.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(exit_status)

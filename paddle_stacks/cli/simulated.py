"""The tasks that make and list simulated DCU hosts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from paddle_stacks.cli import task

__all__ = ["sim_host", "sim_hosts"]


@task(
    help={
        "name": "Which host; ./inv sim-hosts lists them.",
        "output": "The folder to make; new or empty.",
    }
)
def sim_host(context: Any, name: str, output: str = "") -> None:
    """Create the files of a DCU host for tests; requires root.

    The host is healthy or has one fault.
    PADDLE_STACKS_HOST_ROOT=FOLDER makes every command look at it instead of this machine.
    """
    from paddle_stacks.errors import RequestError
    from paddle_stacks.simulated import hosts

    if not output:
        raise RequestError(
            "--output is required", where="sim-host", remedy=f"./inv sim-host {name} --output DIR"
        )
    folder = hosts.make(name, Path(output).expanduser().absolute())
    print(f"made {name}: use it with PADDLE_STACKS_HOST_ROOT={folder}", file=sys.stderr)
    print(folder)


@task()
def sim_hosts(context: Any) -> None:
    """List the simulated DCU hosts with their faults."""
    from paddle_stacks.simulated import hosts

    hosts.show()

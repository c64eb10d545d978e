"""The tasks that make the documents a site."""

from __future__ import annotations

from typing import Any

from invoke.collection import Collection

from paddle_stacks.cli import ROOT, task
from paddle_stacks.errors import RequestError

__all__ = ["collection"]


@task()
def _build(context: Any) -> None:
    """Build the documentation as an offline site.

    It is in .cache/site and needs no server; the first page is printed.
    """
    from paddle_stacks import site

    print(site.build(ROOT) / "index.html")


@task(help={"port": "On 127.0.0.1 (default: 8001)."})
def _serve(context: Any, port: str = "8001") -> None:
    """Serve the documentation on this machine, with live reload."""
    from paddle_stacks import site

    if not port.isdigit():
        raise RequestError(f'"{port}" is no port', where="--port", remedy="a number, as 8001")
    site.serve(ROOT, int(port))


def collection() -> Collection:
    """Return the tasks, which are called docs.build and docs.serve."""
    group = Collection("docs")
    group.add_task(_build, name="build")
    group.add_task(_serve, name="serve")
    return group

"""Check that the paths in a job's arguments are mounted in its container.

``./inv`` mounts them. Compose always mounts the same folders.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import texts
from paddle_stacks.jobs.arguments import parser

__all__ = ["check"]

_WORKSPACE = Path("/workspace")
_FOLDERS = ("models", "data", "runs", "configs")
_MOUNTED = "only configs/, data/, models/ and runs/ of the workspace are mounted"


def check(job: str, arguments: Sequence[str]) -> None:
    """Reject paths outside the mounted parts of the workspace.

    Args:
        job: the job's name.
        arguments: its command-line arguments.

    Raises:
        RequestError: with one problem for each path.
    """
    if _WORKSPACE.is_mount() or not (_WORKSPACE / "runs").is_mount() or "--help" in arguments:
        return
    if job == "upstream":
        return
    options = parser(job).parse_args(list(arguments))
    problems = []
    for key in ("config", "input"):
        values = getattr(options, key, None)
        for value in values if isinstance(values, list) else [values]:
            if value and str(value) != "-" and not _exists(str(value)):
                problems.append(
                    Problem(
                        f"{value} is not in the container: {_MOUNTED}",
                        f"--{key}",
                        f"move it into data/, mount it (docker compose run -v "
                        f'"$PWD/{value}:/workspace/{value}:ro" {job} …), or use ./inv {job} …',
                    )
                )
    for key in ("output", "plot", "convert"):
        value = str(getattr(options, key, None) or "-")
        parent = (_WORKSPACE / value).parent
        if value != "-" and not _may_write(parent):
            name = Path(value).name
            problems.append(
                Problem(
                    f"{value} cannot be written: {_MOUNTED}, some of them read-only for {job}",
                    f"--{key}",
                    f"use --{key} {_writable()}/{name}, or ./inv {job} …",
                )
            )
    if problems:
        raise RequestError(problems)


def _exists(path: str) -> bool:
    if path.startswith(texts.PREFIX):
        return True  # a text that is part of the image
    return (_WORKSPACE / path).exists() or Path(path).parts[0] in _FOLDERS


def _may_write(folder: Path) -> bool:
    """Return whether a folder, or its nearest existing parent, is writable."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    return existing != _WORKSPACE and os.access(existing, os.W_OK)


def _writable() -> str:
    names = ("runs", "models", "data")
    return next((name for name in names if os.access(_WORKSPACE / name, os.W_OK)), "runs")

"""A check that a job's container sees the files that its arguments name.

`./inv` mounts them. Compose mounts the same folders whatever the arguments are.
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
_SEES = "this container sees configs/, data/, models/ and runs/ of the workspace"


def check(job: str, arguments: Sequence[str]) -> None:
    """Refuse paths that are not in the container, where the workspace is mounted in parts.

    Args:
        job: the job's name.
        arguments: the job's.

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
            if value and str(value) != "-" and not _is_there(str(value)):
                problems.append(
                    Problem(
                        f"{value} is not here: {_SEES}",
                        f"--{key}",
                        f"move it into data/; or mount it too: docker compose run -v "
                        f'"$PWD/{value}:/workspace/{value}:ro" {job} …; or ./inv {job} …',
                    )
                )
    for key in ("output", "plot", "convert"):
        value = str(getattr(options, key, None) or "-")
        parent = (_WORKSPACE / value).parent
        if value != "-" and not _may_write(parent):
            name = Path(value).name
            problems.append(
                Problem(
                    f"{value} cannot be written: {_SEES}, and {job} writes to some of them",
                    f"--{key}",
                    f"--{key} {_writable()}/{name}; or ./inv {job} …",
                )
            )
    if problems:
        raise RequestError(problems)


def _is_there(path: str) -> bool:
    if path.startswith(texts.PREFIX):
        return True  # a text of the image
    return (_WORKSPACE / path).exists() or Path(path).parts[0] in _FOLDERS


def _may_write(folder: Path) -> bool:
    """Return whether something can be made in a folder, or in the nearest that there is."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return there != _WORKSPACE and os.access(there, os.W_OK)


def _writable() -> str:
    names = ("runs", "models", "data")
    return next((name for name in names if os.access(_WORKSPACE / name, os.W_OK)), "runs")

"""Names in a workspace: the folder that holds ``models/``, ``data/``, ``runs/`` and ``configs/``.

In a container it is ``/workspace``, the working directory; a job resolves every
relative path against it.
"""

from __future__ import annotations

from pathlib import Path

from paddle_stacks.errors import RequestError, did_you_mean

__all__ = ["find_model", "find_run"]


def find_model(name: str, workspace: Path = Path()) -> Path:
    """Return the folder of a model given by its name in ``models/`` or by a path.

    Raises:
        RequestError: there is no such folder, or it is not a model's.
    """
    for folder in (workspace / "models" / name, workspace / name):
        if (folder / "config.json").is_file():
            return folder
        if folder.is_dir() and folder != workspace:
            raise RequestError(
                f"{folder} is not a model: it has no config.json",
                where=str(folder),
                remedy=f"fetch it again: ./inv fetch {Path(name).name} --force",
            )
    here = _folders(workspace / "models")
    hint = did_you_mean(Path(name).name, here)
    remedy = f"{hint} or fetch it: ./inv fetch {Path(name).name}".removeprefix(" or ")
    raise RequestError(f'no model "{name}"', where=str(workspace / "models"), remedy=remedy)


def find_run(name: str, workspace: Path = Path()) -> Path:
    """Return the folder of a run given by its name in ``runs/`` or by a path.

    Raises:
        RequestError: there is no such folder.
    """
    for folder in (workspace / "runs" / name, workspace / name):
        if folder.is_dir():
            return folder
    hint = did_you_mean(Path(name).name, _folders(workspace / "runs"))
    raise RequestError(f'no run "{name}"', where=str(workspace / "runs"), remedy=hint)


def _folders(parent: Path) -> list[str]:
    if not parent.is_dir():
        return []
    return sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))

"""Checkpoints that are whole: written under another name, sealed, renamed.

A checkpoint is a folder ``checkpoint-<step>`` with a seal, ``checkpoint.json``:
the step, the fingerprint of the data, and each file's size and SHA-256. A folder
without a seal, or one that its seal does not fit, is never resumed from.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.files import sha256_of, sync_folder, sync_tree

__all__ = [
    "PREFIX",
    "Checkpoint",
    "clear",
    "damage",
    "found",
    "open_whole",
    "remove",
    "saving",
    "step_of",
    "unnamed",
]

PREFIX = "checkpoint"  # as upstream names them
_SEAL = "checkpoint.json"
_SAVING = ".saving"
_NAME = re.compile(rf"{PREFIX}-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder.

    Args:
        folder: where it is.
        step: the optimizer steps that led to it.
        data: the fingerprints of the data it was trained on, by split.
    """

    folder: Path
    step: int
    data: Mapping[str, str]


def found(run: Path) -> list[Path]:
    """Return the checkpoint folders of a run, the newest first, damaged ones too."""
    named = (path for path in run.glob(f"{PREFIX}-*") if _NAME.fullmatch(path.name))
    return sorted((path for path in named if path.is_dir()), key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """Return the step in a checkpoint folder's name."""
    return int(folder.name.rpartition("-")[2])


def damage(folder: Path) -> str:
    """Return what is wrong with a checkpoint, or an empty string if it is whole."""
    try:
        files = _seal(folder)["files"]
        for name, entry in files.items():
            if not json_files.is_below(name):
                return f"its {_SEAL} names a file outside of it"
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != int(entry["bytes"]):
                return f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}"
            if sha256_of(path) != entry["sha256"]:
                return f"{name} is not what was written"
        open_whole(folder)
    except FileNotFoundError:
        return f"it has no {_SEAL}: it was not written to the end"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return f"its {_SEAL} cannot be read: {type(error).__name__}: {error}"
    return ""


def open_whole(folder: Path) -> Checkpoint:
    """Return a checkpoint that :func:`damage` found whole."""
    seal = _seal(folder)
    return Checkpoint(folder, int(seal["step"]), dict(seal["data"]))


def unnamed(run: Path) -> Path:
    """Return the folder below which a checkpoint is written before it has its name."""
    return run / _SAVING


@contextmanager
def saving(run: Path, step: int, data: Mapping[str, str]) -> Iterator[Path]:
    """Yield a folder below which ``checkpoint-<step>`` is to be written.

    When the block ends well, that folder is sealed, flushed to the disk and
    renamed into the run. If it does not, nothing is left.
    """
    parent = unnamed(run)
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    try:
        yield parent
        part = parent / f"{PREFIX}-{step}"
        _write_seal(part, step, data)
        sync_tree(part)
        final = run / part.name
        remove([final])
        part.rename(final)
        sync_folder(run)  # before those that it supersedes are removed
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def remove(folders: Sequence[Path]) -> None:
    """Remove checkpoints. Each loses its seal first, so that none is half there and sealed."""
    for folder in folders:
        (folder / _SEAL).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)


def clear(run: Path) -> None:
    """Remove what a killed save left."""
    shutil.rmtree(unnamed(run), ignore_errors=True)


def _seal(folder: Path) -> dict[str, Any]:
    seal: dict[str, Any] = json_files.parse((folder / _SEAL).read_text(encoding="utf-8"))
    return seal


def _write_seal(folder: Path, step: int, data: Mapping[str, str]) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in paths
    }
    seal = {"step": step, "data": dict(data), "files": files}
    (folder / _SEAL).write_text(json.dumps(seal, indent=2) + "\n", encoding="utf-8")

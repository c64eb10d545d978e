"""Atomic checkpoints: written under a temporary name, then renamed.

A checkpoint is a folder ``checkpoint-<step>`` with a manifest, ``checkpoint.json``: the step, the
fingerprints of the data, and the size and SHA-256 of each file. Training never resumes from a
folder without a manifest, or with one that does not match.
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
    "find_all",
    "open_complete",
    "remove",
    "saving",
    "step_of",
    "temporary_folder",
]

PREFIX = "checkpoint"  # as upstream names them
_MANIFEST = "checkpoint.json"
_SAVING = ".saving"
_NAME = re.compile(rf"{PREFIX}-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder.

    Args:
        folder: its path.
        step: the number of optimizer steps.
        data: the fingerprints of the training data, by split.
    """

    folder: Path
    step: int
    data: Mapping[str, str]


def find_all(run: Path) -> list[Path]:
    """Return the checkpoint folders of a run, including damaged ones, newest first."""
    named = (path for path in run.glob(f"{PREFIX}-*") if _NAME.fullmatch(path.name))
    return sorted((path for path in named if path.is_dir()), key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """Return the step in a checkpoint folder's name."""
    return int(folder.name.rpartition("-")[2])


def damage(folder: Path) -> str:
    """Return the damage of a checkpoint, or an empty string if it is complete."""
    try:
        files = _manifest(folder)["files"]
        for name, entry in files.items():
            if not json_files.is_below(name):
                return f"{_MANIFEST} lists a file outside of the folder"
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != int(entry["bytes"]):
                return f"{name} has {path.stat().st_size} bytes, expected {entry['bytes']}"
            if sha256_of(path) != entry["sha256"]:
                return f"{name} has changed since it was written"
        open_complete(folder)
    except FileNotFoundError:
        return f"{_MANIFEST} is missing: writing did not finish"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return f"{_MANIFEST} cannot be read: {type(error).__name__}: {error}"
    return ""


def open_complete(folder: Path) -> Checkpoint:
    """Return a checkpoint for which :func:`damage` found no damage."""
    manifest = _manifest(folder)
    return Checkpoint(folder, int(manifest["step"]), dict(manifest["data"]))


def temporary_folder(run: Path) -> Path:
    """Return the folder in which a checkpoint is written before it is renamed."""
    return run / _SAVING


@contextmanager
def saving(run: Path, step: int, data: Mapping[str, str]) -> Iterator[Path]:
    """Yield a folder in which ``checkpoint-<step>`` must be written.

    When the block succeeds, the checkpoint gets a manifest, is flushed to the disk and moved
    into the run. If the block raises, nothing is left.
    """
    parent = temporary_folder(run)
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    try:
        yield parent
        part = parent / f"{PREFIX}-{step}"
        _write_manifest(part, step, data)
        sync_tree(part)
        final = run / part.name
        remove([final])
        part.rename(final)
        sync_folder(run)  # before older checkpoints are removed
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def remove(folders: Sequence[Path]) -> None:
    """Remove checkpoints; the manifests first, so that none looks complete in between."""
    for folder in folders:
        (folder / _MANIFEST).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)


def clear(run: Path) -> None:
    """Remove the temporary folder of a killed save."""
    shutil.rmtree(temporary_folder(run), ignore_errors=True)


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json_files.parse((folder / _MANIFEST).read_text(encoding="utf-8"))
    return manifest


def _write_manifest(folder: Path, step: int, data: Mapping[str, str]) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in paths
    }
    manifest = {"step": step, "data": dict(data), "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

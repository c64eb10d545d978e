"""Folders that several tests start from, created once for a checkout and its images.

They are stored in ``.cache/test/made/`` until their inputs change, and are read-only: tests copy
them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FOLDER = ROOT / ".cache" / "test" / "made"


def made_once(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of a name, which ``make`` fills if it does not exist for this key.

    Args:
        name: of the folder.
        key: a text that identifies the content.
        make: fills an empty folder.
    """
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    folder = _FOLDER / f"{name}-{digest}"
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with (_FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # suites and their workers ask for the same
        if not folder.is_dir():
            for old in _FOLDER.glob(f"{name}-{'?' * len(digest)}"):
                shutil.rmtree(old)
            partial = _FOLDER / f".{name}-{os.getpid()}"
            partial.mkdir()
            try:
                make(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def copied(source: Path, target: Path) -> Path:
    """Copy a folder; large files, which are never modified, are hard-linked if possible."""
    shutil.copytree(source, target, copy_function=_copy)
    return target


def _copy(source: str, target: str) -> None:
    if Path(source).stat().st_size > 1 << 24:
        try:
            os.link(source, target)
        except OSError:  # another file system
            pass
        else:
            return
    shutil.copy2(source, target)


def image_id(name: str) -> str:
    """Return an image's id, as a part of a key."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

"""The log that the host keeps of a run."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["RunLog"]


class RunLog:
    """A log file in a folder that the job makes: lines wait until the folder is there.

    Each line is written by itself, so that the file can be followed, and so that
    a job may replace its folder.

    Args:
        path: the file.
        owner: user and group id of the file, as far as this process may set them.
    """

    def __init__(self, path: Path, owner: tuple[int, int]) -> None:
        self._path = path
        self._owner = owner
        self._waiting: list[str] = []

    def write(self, line: str) -> None:
        """Append the line."""
        self._waiting.append(line)
        if not self._path.parent.is_dir():
            return
        new = not self._path.exists()
        with self._path.open("a", encoding="utf-8") as stream:
            stream.writelines(f"{text}\n" for text in self._waiting)
        self._waiting.clear()
        if new and os.geteuid() == 0:
            os.chown(self._path, *self._owner)

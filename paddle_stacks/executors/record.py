"""Record a run's plan and log in the folder that the job creates.

The job owns that folder while this process, which may be root, writes to it. No link in it
is followed: a link to ``/etc`` would make the host write the job's output there.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paddle_stacks.errors import printable
from paddle_stacks.ownership import hand_over

__all__ = ["LOG", "PLAN", "RunRecord"]

LOG = "run.log"
PLAN = "plan.json"

_PART = f".{PLAN}.part"
_MAX_LINE = 10_000  # characters
# At this size the log is renamed to run.log.1, replacing the previous one, so that a job cannot
# fill the disk.
_MAX_LOG = 64 * 2**20
_MAX_BUFFERED = 10_000  # lines, while the log cannot be written
# O_NONBLOCK: opening a pipe instead of a file would wait for a reader.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RunRecord:
    """Writes ``plan.json`` and ``run.log`` to a run's folder once the job has created it.

    Creating it here would look like an earlier run to the job. Each line is written
    separately, so that the log can be followed and a job can replace its folder.
    Nothing is written if the folder is not below the workspace or a file is not regular.

    Args:
        folder: the run's folder.
        workspace: the folder that the job can write to.
        plan: the plan as a JSON object.
        user: ``uid:gid`` of the files, if this process can set it.
    """

    def __init__(self, folder: Path, workspace: Path, plan: Mapping[str, Any], user: str) -> None:
        self._folder = folder
        self._workspace = workspace
        self._plan = plan
        self._user = user
        self._buffer: list[str] = []
        self._started = False

    def write(self, line: str) -> None:
        """Append a line to the log, with control characters escaped and limited in length."""
        self._buffer.append(printable(line, _MAX_LINE))
        try:
            with _opened(self._folder, self._workspace) as folder:
                if not self._started:
                    self._start(folder)
                _rotate(folder)
                with _appended(folder, self._user) as stream:
                    stream.write("".join(f"{text}\n" for text in self._buffer))
        except (FileNotFoundError, NotADirectoryError, _NotOurs):
            del self._buffer[:-_MAX_BUFFERED]
            return
        self._buffer.clear()

    def _start(self, folder: int) -> None:
        with _unlinked(_PART, folder):
            descriptor = os.open(_PART, _NEW | os.O_EXCL, 0o666, dir_fd=folder)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(self._plan, stream, indent=2, ensure_ascii=False)
                stream.flush()
                os.fsync(stream.fileno())
                hand_over(stream.fileno(), self._user)
            os.replace(_PART, PLAN, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
        self._started = True


class _NotOurs(Exception):
    """A path is not a file or folder that this process could have created."""


@contextmanager
def _opened(folder: Path, workspace: Path) -> Iterator[int]:
    """Yield a descriptor of the folder; links cannot lead outside of what the job can write to.

    That is the first folder below the workspace, such as ``runs/``. It may be a link itself,
    because the job cannot replace it. Any other link could lead into the checkout.
    """
    try:
        parts = folder.relative_to(workspace).parts
        if ".." in parts:
            raise _NotOurs
        root = (workspace / parts[0]).resolve(strict=True)
        steps = folder.resolve(strict=True).relative_to(root).parts
    except (
        OSError,
        ValueError,
        RuntimeError,
        IndexError,
    ) as error:  # RuntimeError: a loop of links
        raise _NotOurs from error
    descriptor = os.open(root, _FOLDER)
    try:
        for step in steps:
            # O_NOFOLLOW fails if a component has become a link in the meantime.
            inner = os.open(step, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _rotate(folder: int) -> None:
    """Rotate the log if it is full; anything but a regular file is left alone."""
    with suppress(FileNotFoundError):
        stat_result = os.stat(LOG, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(stat_result.st_mode) and stat_result.st_size >= _MAX_LOG:
            with suppress(IsADirectoryError):
                os.replace(LOG, f"{LOG}.1", src_dir_fd=folder, dst_dir_fd=folder)


@contextmanager
def _appended(folder: int, user: str) -> Iterator[Any]:
    try:
        descriptor = os.open(LOG, _NEW | os.O_APPEND, 0o666, dir_fd=folder)
    except OSError as error:  # a link, a folder, or a pipe without a reader
        raise _NotOurs from error
    with os.fdopen(descriptor, "a", encoding="utf-8") as stream:
        stat_result = os.fstat(stream.fileno())
        # A hard link may be another user's file.
        if not stat.S_ISREG(stat_result.st_mode) or stat_result.st_nlink != 1:
            raise _NotOurs
        hand_over(stream.fileno(), user)
        yield stream


@contextmanager
def _unlinked(name: str, folder: int) -> Iterator[None]:
    """Remove a file before and after."""
    _unlink(name, folder)
    try:
        yield
    finally:
        _unlink(name, folder)


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError as error:  # a folder
        raise _NotOurs from error

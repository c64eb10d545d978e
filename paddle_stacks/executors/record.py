"""What the host keeps of a run, in the folder that the job makes: its plan and its log.

The job owns that folder while this process, which may be root, writes into it. So no link
in it is followed: one to ``/etc`` would have the host write there what the job says.
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
# At this size the log becomes run.log.1, and the one before that goes: a job that prints for ever
# fills no disk.
_MAX_LOG = 64 * 2**20
_MOST_WAITING = 10_000  # lines; a job could print for ever with a link in the log's place
# A pipe in a file's place would otherwise make this process wait for a reader.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RunRecord:
    """Keeps ``plan.json`` and ``run.log`` in a folder as soon as the job has made it.

    Making it here would look to the job like an earlier run. Each line is written
    by itself, so that the log can be followed, and a job may replace its folder.
    Nothing is kept where the folder is not below the workspace, or a file is none.

    Args:
        folder: the run's folder.
        workspace: the folder that the job can write to.
        plan: the plan as a JSON object.
        user: ``uid:gid`` of the files, as far as this process may set it.
    """

    def __init__(self, folder: Path, workspace: Path, plan: Mapping[str, Any], user: str) -> None:
        self._folder = folder
        self._workspace = workspace
        self._plan = plan
        self._user = user
        self._waiting: list[str] = []
        self._begun = False

    def write(self, line: str) -> None:
        """Append a line to the log, with control characters escaped and cut where it is long."""
        self._waiting.append(printable(line, _MAX_LINE))
        try:
            with _opened(self._folder, self._workspace) as folder:
                if not self._begun:
                    self._begin(folder)
                _rotate(folder)
                with _appended(folder, self._user) as stream:
                    stream.write("".join(f"{text}\n" for text in self._waiting))
        except (FileNotFoundError, NotADirectoryError, _NotOurs):
            del self._waiting[:-_MOST_WAITING]
            return
        self._waiting.clear()

    def _begin(self, folder: int) -> None:
        with _unlinked(_PART, folder):
            descriptor = os.open(_PART, _NEW | os.O_EXCL, 0o666, dir_fd=folder)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(self._plan, stream, indent=2, ensure_ascii=False)
                stream.flush()
                os.fsync(stream.fileno())
                hand_over(stream.fileno(), self._user)
            os.replace(_PART, PLAN, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
        self._begun = True


class _NotOurs(Exception):
    """What is there is not what this process would have made."""


@contextmanager
def _opened(folder: Path, workspace: Path) -> Iterator[int]:
    """Yield a descriptor of the folder; links may not lead out of what the job can write to.

    That is the first folder below the workspace, as ``runs/``, which may be a link itself: the
    job cannot replace it. With any other link this process would write to the checkout.
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
    ) as error:  # RuntimeError: links in a circle
        raise _NotOurs from error
    descriptor = os.open(root, _FOLDER)
    try:
        for step in steps:
            # A step that has become a link since is refused.
            inner = os.open(step, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _rotate(folder: int) -> None:
    """Begin a new log where the present one is full; what is no file of ours is left alone."""
    with suppress(FileNotFoundError):
        found = os.stat(LOG, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) and found.st_size >= _MAX_LOG:
            with suppress(IsADirectoryError):
                os.replace(LOG, f"{LOG}.1", src_dir_fd=folder, dst_dir_fd=folder)


@contextmanager
def _appended(folder: int, user: str) -> Iterator[Any]:
    try:
        descriptor = os.open(LOG, _NEW | os.O_APPEND, 0o666, dir_fd=folder)
    except OSError as error:  # a link, a folder, a pipe that nobody reads
        raise _NotOurs from error
    with os.fdopen(descriptor, "a", encoding="utf-8") as stream:
        found = os.fstat(stream.fileno())
        # A second name of a file may be somebody else's file.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise _NotOurs
        hand_over(stream.fileno(), user)
        yield stream


@contextmanager
def _unlinked(name: str, folder: int) -> Iterator[None]:
    """Remove a name before and after, whatever has it."""
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

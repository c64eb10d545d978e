"""Lock files, so that one job at a time writes to a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from paddle_stacks.errors import RequestError

__all__ = ["locked"]


@contextmanager
def locked(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Hold the lock of a folder, which is created if it is missing.

    The lock is the kernel's (``flock``): it is released whenever the process ends, and works
    between containers that mount the same folder.

    Args:
        folder: the folder.
        name: the lock file's name; different names are different locks.

    Raises:
        RequestError: another job holds the lock; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip()
            raise RequestError(
                f"another job is writing here: {holder or 'it has just started'}",
                where=str(folder),
                remedy="wait for it to finish, or use another name for this one",
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _about_me().encode())
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _about_me() -> str:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()}, since {now}"

"""Conversion of disk errors of the operating system to this project's errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddle_stacks.errors import MachineError

__all__ = ["writing_below"]

_REMEDIES = {
    errno.ENOSPC: "free some space, and start the same command again",
    errno.EDQUOT: "free some of your quota, and start the same command again",
    errno.EROFS: "mount it writable",
    errno.EACCES: "run as its owner (docker run --user), or mount a folder of your own",
    errno.EPERM: "run as its owner (docker run --user), or mount a folder of your own",
}


@contextmanager
def writing_below(folder: Path) -> Iterator[None]:
    """Convert a full disk, a missing permission and the like into errors about ``folder``.

    Raises:
        MachineError: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise MachineError(
            f"cannot write: {error.strerror}",
            where=str(error.filename or folder),
            remedy=_REMEDIES[error.errno],
        ) from error

"""What the operating system says when a file cannot be written, as the project's errors."""

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
    errno.EROFS: "mount it so that it can be written",
    errno.EACCES: "run as its owner: docker run --user, or mount a folder of yours",
    errno.EPERM: "run as its owner: docker run --user, or mount a folder of yours",
}


@contextmanager
def writing_below(folder: Path) -> Iterator[None]:
    """Turn a full disk, a missing right and the like into errors about ``folder``.

    Raises:
        MachineError: the machine does not let us write.
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

"""Progress at a pace that neither a pipe nor a live view is flooded by."""

from __future__ import annotations

import time
from collections.abc import Callable

from entrypoints.runtime import console

__all__ = ["in_mib", "in_units"]

_SECONDS = 2.0


def in_mib(what: str, total: int) -> Callable[[int], None]:
    """Return a function that takes the bytes done so far and reports them every two seconds.

    Work that is done sooner is not reported at all.

    Args:
        what: the work, for the reader.
        total: bytes; 0 where it is not known.
    """
    return in_units(what, total, "MiB", _mib)


def in_units(
    what: str, total: int, unit: str, shown: Callable[[int], int] = int
) -> Callable[[int], None]:
    """Return a function that takes what is done so far and reports it every two seconds.

    Args:
        what: the work, for the reader.
        total: how much there is to do; 0 where it is not known.
        unit: of what is told.
        shown: what is told of a number.
    """
    last = time.monotonic()
    begun = False

    def progress(done: int) -> None:
        nonlocal last, begun
        now = time.monotonic()
        if now - last >= _SECONDS or (begun and done == total):
            last, begun = now, True
            console.report("progress", what=what, done=shown(done), total=shown(total), unit=unit)

    return progress


def _mib(count: int) -> int:
    return -(-count // 2**20)

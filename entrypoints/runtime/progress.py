"""Progress reports, at most one every two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

from entrypoints.runtime import console

__all__ = ["in_mib", "in_units"]

_SECONDS = 2.0


def in_mib(label: str, total: int) -> Callable[[int], None]:
    """Return a function that takes the number of bytes so far and reports it in MiB.

    Work that takes less than two seconds is not reported.

    Args:
        label: the name of the work.
        total: bytes; 0 if unknown.
    """
    return in_units(label, total, "MiB", _mib)


def in_units(
    label: str, total: int, unit: str, shown: Callable[[int], int] = int
) -> Callable[[int], None]:
    """Return a function that takes the amount of work done so far and reports it.

    Args:
        label: the name of the work.
        total: the amount of work; 0 if unknown.
        unit: of the reported numbers.
        shown: converts an amount to a reported number.
    """
    last = time.monotonic()
    begun = False

    def progress(done: int) -> None:
        nonlocal last, begun
        now = time.monotonic()
        if now - last >= _SECONDS or (begun and done == total):
            last, begun = now, True
            console.report("progress", what=label, done=shown(done), total=shown(total), unit=unit)

    return progress


def _mib(count: int) -> int:
    return -(-count // 2**20)

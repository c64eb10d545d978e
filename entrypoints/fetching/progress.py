"""Progress in steps that neither a pipe nor a live view is flooded by."""

from __future__ import annotations

from collections.abc import Callable

from entrypoints import console

__all__ = ["in_mib"]

_STEPS = 10


def in_mib(what: str, total: int) -> Callable[[int], None]:
    """Return a function that takes the bytes done so far and reports every tenth of ``total``.

    Args:
        what: the work, for the reader.
        total: bytes; 0 where it is not known, and then every 64 MiB is reported.
    """
    step = max(total // _STEPS, 1) if total else 64 * 2**20
    reported = 0

    def progress(done: int) -> None:
        nonlocal reported
        if done // step > reported // step or (done == total and reported != total):
            reported = done
            console.report("progress", what=what, done=_mib(done), total=_mib(total), unit="MiB")

    return progress


def _mib(count: int) -> int:
    return -(-count // 2**20)

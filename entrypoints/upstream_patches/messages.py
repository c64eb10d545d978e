"""Transfer of tokens from upstream's programs through a folder and a queue of each run.

Upstream's operators use the System V queue of ``ftok("./", 1)`` in the working directory of
their first call; the CPU operators use the folder in :data:`VARIABLE`. Without block attention,
tokens are files in the working directory. Therefore both are called in that folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import queue
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from paddle_stacks.errors import JobError, MachineError

__all__ = ["SECONDS", "VARIABLE", "enter", "generate", "inside", "made", "result", "wait"]

VARIABLE = "PADDLE_STACKS_QUEUE"
"""The variable with the run's folder."""

SECONDS = 600
"""Timeout of the reader and its program, long enough for a busy host."""

_LOOK_SECONDS = 1
_ID = 1  # upstream's second argument of ftok
_CREATE, _EXCLUSIVE, _REMOVE = 0o1000, 0o2000, 0
_DEATH_SIGNAL = 1
_ATTEMPTS = 20
_REMEDY = "run the same command again; the log above shows why the reader stopped"

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def made() -> Iterator[Path]:
    """Create a run's folder and queue, and remove both with their content at the end.

    Raises:
        MachineError: the queue cannot be created.
    """
    folder, number = _made()
    try:
        yield folder
    finally:
        _libc.msgctl(number, _REMOVE, None)
        shutil.rmtree(folder)


def _made() -> tuple[Path, int]:
    """Return a new folder with an unused queue key, and its queue."""
    # Folders with a used key are removed later, because the next one could get the same inode.
    taken: list[Path] = []
    try:
        for _ in range(_ATTEMPTS):
            folder = Path(tempfile.mkdtemp(prefix="paddle-stacks-queue-"))
            key = _libc.ftok(os.fsencode(folder), _ID)
            number: int = _libc.msgget(key, _CREATE | _EXCLUSIVE | 0o600)
            if number >= 0:
                return folder, number
            fault = ctypes.get_errno()
            taken.append(folder)
            if fault != errno.EEXIST:
                break
    finally:
        for each in taken:
            shutil.rmtree(each)
    raise MachineError(
        f"a message queue cannot be created: {os.strerror(fault)}",
        where="msgget",
        remedy="list the queues of this machine with ipcs -q, and remove unused ones with ipcrm",
    )


def inside(call: Callable[..., Any], **arguments: Any) -> Any:
    """Call a function in the run's folder, and return its result."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return call(**arguments)
    before = Path.cwd()
    os.chdir(folder)
    try:
        return call(**arguments)
    finally:
        os.chdir(before)


def generate(inputs: Mapping[str, Any], step: Callable[[Any], Any]) -> int:
    """Run steps until all rows are finished, and return their number.

    Args:
        inputs: the model's; steps change them.
        step: generates and sends a token for each row.
    """

    def run() -> int:
        steps = 0
        while inputs["not_need_stop"]:
            step(inputs)
            steps += 1
        return steps

    steps: int = inside(run)
    return steps


def enter() -> None:
    """Change to the run's folder in the reader process, which ends with its parent."""
    _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if folder := os.environ.get(VARIABLE):
        os.chdir(folder)


def wait(ready: Any, reader: Any) -> None:
    """Wait until the reader is ready.

    Args:
        ready: an event.
        reader: its process.

    Raises:
        JobError: it has ended, or is not ready after :data:`SECONDS`.
    """
    for _ in range(round(SECONDS / _LOOK_SECONDS)):
        if ready.wait(_LOOK_SECONDS):
            return
        _check(reader)
    raise JobError(f"the reader of tokens is not ready after {SECONDS} s", remedy=_REMEDY)


def result(results: Any, reader: Any, steps: int) -> Any:
    """Return the next row of the reader.

    Args:
        results: a queue of rows: number, tokens, text.
        reader: its process.
        steps: the number of tokens sent.

    Raises:
        JobError: the reader has ended, or messages were lost.
    """
    for _ in range(round(SECONDS / _LOOK_SECONDS)):
        try:
            row = results.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            if not reader.is_alive() and results.empty():
                _check(reader)
            continue
        if len(row[1]) != steps:
            raise JobError(
                f"{steps} tokens were sent, but {len(row[1])} received: messages were lost",
                remedy=_REMEDY,
            )
        return row
    raise JobError(
        f"the last message was not received within {SECONDS} s: messages were lost", remedy=_REMEDY
    )


def _check(reader: Any) -> None:
    if not reader.is_alive():
        raise JobError(
            f"the reader of tokens has ended with exit status {reader.exitcode}", remedy=_REMEDY
        )

"""Run a job, and hold it at a moment: ``hold_at.py MOMENT JOB …``.

A moment is a text, at the first line of the job's log that holds it; or ``rename N NAME``,
before a file gets that name for the N-th time, which the last line of the log then says. A
test that wants to meet the job there need not hurry. The job goes on when a signal has arrived
that it handles, or when there is a file ``go-on`` in the workspace. It runs in the image, as
the job would.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

GO_ON = "go-on"


class Gate:
    """Holds the job, once."""

    def __init__(self) -> None:
        self._has_held = False
        self.is_released = False

    def hold(self) -> None:
        """Return when the job is to go on."""
        if not self._has_held:
            self._has_held = True
            while not (self.is_released or Path(GO_ON).exists()):
                # Not time.sleep: it waits for a point in time, and libfaketime, which makes
                # clocks jump, answers EINVAL if one jumps meanwhile.
                select.select([], [], [], 0.002)


class HoldingStream:
    """Standard error; it returns from the write of the line only when the job is to go on.

    Args:
        real: the stream.
        text: what the line holds.
        gate: holds the job.
    """

    def __init__(self, real: Any, text: str, gate: Gate) -> None:
        self._real = real
        self._text = text
        self._line = ""
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def write(self, text: str) -> int:
        """Write; hold where the line is complete."""
        count: int = self._real.write(text)
        self._line += text
        *lines, self._line = self._line.split("\n")
        if any(self._text in line for line in lines):
            self._real.flush()
            self._gate.hold()
        return count


def hold_at_rename(number: int, name: str, gate: Gate) -> None:
    """Hold before the N-th time that a file gets the name, in this process."""
    renames = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "os.rename" or Path(os.fsdecode(arguments[1])).name != name:
            return
        if next(renames) == number:
            print(f"rename {number} {name}", file=sys.stderr, flush=True)
            gate.hold()

    sys.addaudithook(hook)


def main(argv: list[str]) -> int:
    gate = Gate()
    kind, *words = argv[0].split()
    if kind == "rename":
        hold_at_rename(int(words[0]), words[1], gate)
    else:
        sys.stderr = HoldingStream(sys.stderr, argv[0], gate)  # type: ignore[assignment]
    install = signal.signal

    def install_releasing(number: int, handler: Any) -> Any:
        def release(received: int, frame: Any) -> Any:
            gate.is_released = True
            return handler(received, frame)

        return install(number, release if callable(handler) else handler)

    signal.signal = install_releasing  # type: ignore[assignment]
    from entrypoints.__main__ import main as run

    return run(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run a job, and pause it at a moment: ``hold_at.py MOMENT JOB …``.

A moment is the first line of the job's log that contains a text, or ``rename N NAME``: before a
file gets that name for the N-th time, which the last line of the log reports. The job continues
when it receives a signal that it handles, or when the workspace has a file ``go-on``. This runs in
the image, like the job.
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
    """Pauses the job once."""

    def __init__(self) -> None:
        self._has_held = False
        self.is_released = False

    def hold(self) -> None:
        """Wait until the job may continue."""
        if not self._has_held:
            self._has_held = True
            while not (self.is_released or Path(GO_ON).exists()):
                # Not time.sleep: it waits for a point in time, and libfaketime, which makes
                # clocks jump, answers EINVAL if one jumps meanwhile.
                select.select([], [], [], 0.002)


class HoldingStream:
    """Standard error that pauses the job while it writes the line.

    Args:
        real: the stream.
        text: a text in the line.
        gate: pauses the job.
    """

    def __init__(self, real: Any, text: str, gate: Gate) -> None:
        self._real = real
        self._text = text
        self._line = ""
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def write(self, text: str) -> int:
        """Write, and pause when the line is complete."""
        count: int = self._real.write(text)
        self._line += text
        *lines, self._line = self._line.split("\n")
        if any(self._text in line for line in lines):
            self._real.flush()
            self._gate.hold()
        return count


def hold_at_rename(number: int, name: str, gate: Gate) -> None:
    """Pause before a file gets the name for the N-th time in this process."""
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

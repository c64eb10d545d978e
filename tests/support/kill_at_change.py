"""Run a job, and kill its container at a change of its files: ``kill_at_change.py N JOB …``.

The container is killed before change number N; with 0 it is not killed, and the last line of
standard error has the number of changes. A change is a file opened for writing, a rename, a
removal, or a new folder, by Python code, outside ``/tmp``. This runs in the image, like the job.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

COUNTED = "changes of the file system: "
_NAMES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_ELSEWHERE = ("/tmp", "/dev", "/proc")


class Changes:
    """Counts the changes of this process, and kills the container before one of them."""

    def __init__(self, last: int) -> None:
        self.count = 0
        self._last = last
        self._process = os.getpid()

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        """Handle an event as an audit hook."""
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING:
                return
        elif event in _NAMES:
            path = arguments[0]
        else:
            return
        if os.getpid() != self._process or isinstance(path, int):
            return
        if os.fsdecode(path).startswith(_ELSEWHERE):  # type: ignore[arg-type]
            return
        self.count += 1
        if self.count == self._last:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # all but this process and tini, which follows it
            os.kill(self._process, signal.SIGKILL)


def main(argv: list[str]) -> int:
    from entrypoints.__main__ import main as run

    changes = Changes(int(argv[0]))
    sys.addaudithook(changes)
    status = run(argv[1:])
    print(f"{COUNTED}{changes.count}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Handling of signals to stop: finish the step, save, exit."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Any

from entrypoints.runtime.console import note
from paddle_stacks.errors import Stopped
from paddle_stacks.jobs.options import GRACE_SECONDS

__all__ = ["StopSignal"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Paddle's launcher (3.0.0b2, utils/process_context.py) sends a worker that is still running
# SIGTERM three times within 0.6 seconds, which counts once.
_SAME_SECONDS = 2.0


class StopSignal:
    """Catches SIGTERM and SIGINT.

    Until :meth:`defer` is called, a signal stops the job at once. After that, the first signal
    only sets :attr:`received`, and the job has ``grace`` seconds to finish; then, or on a
    second signal, it is stopped at once. A SIGTERM within two seconds of another counts as the
    same one, because Paddle's launcher repeats it.

    Args:
        grace: seconds between a signal and the forced stop.
    """

    def __init__(self, grace: int = GRACE_SECONDS) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._is_reported = False
        self._grace = grace
        self._deferred = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        self._previous = {
            signum: signal.getsignal(signum) for signum in (*_SIGNALS, signal.SIGALRM)
        }
        for signum in _SIGNALS:
            signal.signal(signum, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.alarm(0)
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def defer(self) -> None:
        """Let the job finish by itself after a signal from now on."""
        self._deferred = True

    def report(self, signum: int) -> None:
        """Record a signal that another process received, and that will reach this one too."""
        if self.received is None:
            self.received, self._is_reported = signum, True
            signal.alarm(self._grace)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received == signum == signal.SIGTERM and now - self._since < _SAME_SECONDS:
            return
        if self._is_reported:
            # The same stop, which another process has already reported.
            self._is_reported, self._since = False, now
            return
        if not self._deferred or self.received is not None:
            raise Stopped(signum)
        self.received, self._since = signum, now
        signal.alarm(self._grace)
        name = signal.Signals(signum).name
        note(
            f"{name}: finishing the step and saving, within {self._grace} s; "
            "a second signal stops at once"
        )

    def _on_alarm(self, signum: int, frame: FrameType | None) -> None:
        raise Stopped(
            self.received or signal.SIGTERM,
            f"stopped: the step and its checkpoint took longer than {self._grace} s",
            "run the same command again: it continues from the last checkpoint",
        )

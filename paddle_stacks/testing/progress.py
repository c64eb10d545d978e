"""How far the suites of tests are: a line for each on a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from paddle_stacks.testing.runner import SuiteRun

__all__ = ["LiveProgress", "PlainProgress", "Progress", "as_minutes", "line_of", "progress_for"]

_PLAIN_SECONDS = 30


class Progress(Protocol):
    """What shows the state of suites to a person."""

    def update(self, runs: Sequence[SuiteRun]) -> None:
        """Show the state; called several times a second."""

    def message(self, text: str) -> None:
        """Show a text that stays, such as a failure."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class PlainProgress:
    """Prints a line for each running suite every half minute, and one at its end."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PLAIN_SECONDS
        self._ended: set[str] = set()

    def update(self, runs: Sequence[SuiteRun]) -> None:
        """Print the lines that are due."""
        is_due = time.monotonic() >= self._next
        for run in runs:
            if run.ended is not None and run.name not in self._ended:
                self._ended.add(run.name)
                self.message(line_of(run))
            elif run.ended is None and is_due:
                self.message(line_of(run))
        if is_due:
            self._next = time.monotonic() + _PLAIN_SECONDS

    def message(self, text: str) -> None:
        """Print the text."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing."""


class LiveProgress:
    """Keeps a line for each running suite at the bottom of the terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._live.start()
        self._ended: set[str] = set()

    def update(self, runs: Sequence[SuiteRun]) -> None:
        """Redraw the running suites; one that has ended becomes a line that stays."""
        from rich.text import Text

        for run in runs:
            if run.ended is not None and run.name not in self._ended:
                self._ended.add(run.name)
                self.message(line_of(run))
        lines = [line_of(run) for run in runs if run.ended is None]
        self._live.update(Text("\n".join(lines)))

    def message(self, text: str) -> None:
        """Print the text above the lines."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Remove the lines."""
        self._live.stop()


def progress_for() -> Progress:
    """Return what suits standard error: live lines on a terminal, else plain ones."""
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return LiveProgress() if is_terminal else PlainProgress()


def line_of(run: SuiteRun) -> str:
    """Return the state in a line: ``jobs 41/277 · 0 failed · 12 min left``."""
    failed = len(run.failures)
    if run.ended is not None:
        return f"{run.name} {len(run.tests)} tests · {failed} failed · {as_minutes(run.seconds)}"
    if not run.ids:
        return f"{run.name} collecting"
    left = run.seconds_left()
    words = "" if left is None else f" · {_left(left)}"
    return f"{run.name} {len(run.tests)}/{len(run.ids)} · {failed} failed{words}"


def _left(seconds: float) -> str:
    return f"{round(seconds / 60)} min left" if seconds >= 60 else "less than a minute left"


def as_minutes(seconds: float) -> str:
    """Return a duration as minutes and seconds: ``7:05``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"

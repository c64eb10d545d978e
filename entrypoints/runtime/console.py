"""Output of jobs: events on standard error, the result on standard output."""

from __future__ import annotations

import os
import sys
from typing import IO, Any

from paddle_stacks.errors import printable
from paddle_stacks.jobs.events import ENVIRONMENT_SWITCH, Event

__all__ = ["note", "phase", "print_events_to", "report", "say", "warn"]

_streams: list[IO[str]] = []


def print_events_to(stream: IO[str]) -> None:
    """Print events to a stream instead of standard error from now on.

    Args:
        stream: of the first of several processes; ``os.devnull`` in the others.
    """
    _streams[:] = [stream]


def report(kind: str, **fields: Any) -> None:
    """Print one event (see :class:`paddle_stacks.jobs.events.Event`)."""
    event = Event(kind, fields)
    machine = os.environ.get(ENVIRONMENT_SWITCH) == "1"
    stream = _streams[0] if _streams else sys.stderr
    print(event.encoded() if machine else event.plain(), file=stream, flush=True)


def phase(name: str) -> None:
    """Report the start of a phase."""
    report("phase", name=name)


def note(text: str) -> None:
    """Report information for the user."""
    report("note", text=text)


def say(text: str, end: str = "\n") -> None:
    """Print a result on standard output; control characters are removed on a terminal.

    Args:
        text: an untrusted text, such as a model's answer or a document.
        end: printed after it.
    """
    print(printable(text) if sys.stdout.isatty() else text, end=end, flush=True)


def warn(text: str) -> None:
    """Report a problem that does not end the job."""
    report("warning", text=text)

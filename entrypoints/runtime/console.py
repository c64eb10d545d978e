"""How a job speaks: events and lines on standard error, its result on standard output."""

from __future__ import annotations

import os
import sys
from typing import IO, Any

from paddle_stacks.errors import printable
from paddle_stacks.jobs.events import ENVIRONMENT_SWITCH, Event

__all__ = ["note", "phase", "report", "say", "speak_to", "warn"]

_streams: list[IO[str]] = []


def speak_to(stream: IO[str]) -> None:
    """From now on, print events there instead of on standard error.

    Args:
        stream: of the process that speaks for several; ``os.devnull`` for the others.
    """
    _streams[:] = [stream]


def report(kind: str, **fields: Any) -> None:
    """Print one event (see :class:`paddle_stacks.jobs.events.Event`)."""
    event = Event(kind, fields)
    machine = os.environ.get(ENVIRONMENT_SWITCH) == "1"
    stream = _streams[0] if _streams else sys.stderr
    print(event.encoded() if machine else event.plain(), file=stream, flush=True)


def phase(name: str) -> None:
    """Say that a new part of the work begins."""
    report("phase", name=name)


def note(text: str) -> None:
    """Say something a person may want to know."""
    report("note", text=text)


def say(text: str, end: str = "\n") -> None:
    """Print a result on standard output; a terminal gets no control characters of it.

    Args:
        text: such as a model's answer or a document, which are somebody else's.
        end: what comes after it.
    """
    print(printable(text) if sys.stdout.isatty() else text, end=end, flush=True)


def warn(text: str) -> None:
    """Say that something is not as it should be, although the job goes on."""
    report("warning", text=text)

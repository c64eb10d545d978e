"""How a job speaks: events and lines on standard error, its result on standard output."""

from __future__ import annotations

import os
import sys
from typing import Any

from paddle_stacks.jobs.events import ENVIRONMENT_SWITCH, Event

__all__ = ["note", "phase", "report", "warn"]


def report(kind: str, **fields: Any) -> None:
    """Print one event (see :class:`paddle_stacks.jobs.events.Event`)."""
    event = Event(kind, fields)
    machine = os.environ.get(ENVIRONMENT_SWITCH) == "1"
    print(event.encoded() if machine else event.plain(), file=sys.stderr, flush=True)


def phase(name: str) -> None:
    """Say that a new part of the work begins."""
    report("phase", name=name)


def note(text: str) -> None:
    """Say something a person may want to know."""
    report("note", text=text)


def warn(text: str) -> None:
    """Say that something is not as it should be, although the job goes on."""
    report("warning", text=text)

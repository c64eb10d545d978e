"""Progress reports of a running job, for people and for the host's live view.

A job reports with :func:`Event`. By default it prints the event as a plain line. With
``PADDLE_STACKS_EVENTS=1``, which the host sets, it prints one line of ``@event {json}``, from
which the host makes the same plain line for ``run.log`` and its live view. All events go to
standard error; standard output is for the job's result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paddle_stacks.errors import printable
from paddle_stacks.jobs import json_files

__all__ = ["ENVIRONMENT_SWITCH", "Event", "parse"]

ENVIRONMENT_SWITCH = "PADDLE_STACKS_EVENTS"
_PREFIX = "@event "
_MAX_FIELD = 4000  # characters of a text


@dataclass(frozen=True)
class Event:
    """One report of a job.

    Args:
        kind: ``phase`` (fields: ``name``), ``progress`` (``what``, ``done``,
            ``total``, ``unit``), ``step`` (``step``, ``total``, ``loss``,
            ``learning_rate``, ``tokens_per_second``, ``memory_mib``,
            ``seconds_left``), ``evaluation`` (``step``, ``loss``), ``result``
            (free fields), ``note`` (``text``) or ``warning`` (``text``).
        fields: JSON-serializable values.
    """

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def encoded(self) -> str:
        """Return the machine-readable line, without its end of line."""
        body = {"kind": self.kind, **self.fields}
        return _PREFIX + json.dumps(body, ensure_ascii=False, separators=(",", ":"))

    def plain(self) -> str:
        """Return the line a person reads in a pipe or in ``run.log``."""
        return printable(self._plain())

    def _plain(self) -> str:
        get = self.fields.get
        if self.kind == "phase":
            return f"== {get('name')}"
        if self.kind == "progress":
            total = f"/{get('total')}" if get("total") else ""
            return f"{get('what')}: {get('done')}{total} {get('unit', '')}".rstrip()
        if self.kind == "warning":
            return f"WARNING: {get('text')}"
        if self.kind == "note":
            return str(get("text"))
        if self.kind == "step":
            return self._plain_step()
        pairs = " ".join(f"{key} {_short(value)}" for key, value in self.fields.items())
        return f"{self.kind}: {pairs}"

    def _plain_step(self) -> str:
        get = self.fields.get
        parts = [f"step {get('step')}/{get('total')}"]
        labels = (
            ("loss", "loss {}"),
            ("learning_rate", "lr {}"),
            ("tokens_per_second", "{} tokens/s"),
            ("memory_mib", "{} MiB"),
            ("seconds_left", "{} s left"),
        )
        parts += [text.format(_short(get(key))) for key, text in labels if get(key) is not None]
        return "  ".join(parts)


def parse(line: str) -> Event | None:
    """Return the event that a line of a job's log encodes, or None for any other line."""
    if not line.startswith(_PREFIX):
        return None
    try:
        body = json_files.parse(line[len(_PREFIX) :])
    except ValueError:
        return None
    if not isinstance(body, dict) or not isinstance(body.get("kind"), str):
        return None
    shown = {printable(str(key)): _printable(value) for key, value in body.items()}
    return Event(shown.pop("kind"), shown)


def _printable(value: Any) -> Any:
    """Return a value that is safe to print on a terminal; lists and objects as text."""
    if isinstance(value, str):
        return printable(value, _MAX_FIELD).replace("\n", " ")
    if isinstance(value, (list, dict)):
        return printable(json.dumps(value, ensure_ascii=False), _MAX_FIELD)
    return value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

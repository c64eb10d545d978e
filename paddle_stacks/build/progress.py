"""The progress of a build, as BuildKit reports it.

``docker buildx bake --progress=rawjson`` writes a stream of JSON documents: steps
("vertexes") when they start, end or are cached, and their logs in base64.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["Step", "Steps", "documents"]

_STAGE = re.compile(
    r"^\[(?:(?P<target>[\w-]+)(?:->\w+)? )?(?P<stage>[\w-]+) +\d+/\d+\] (?P<instruction>.*)", re.S
)


@dataclass
class Step:
    """One step of a build.

    Args:
        digest: BuildKit's id of the step; the same inputs give the same digest.
        name: as BuildKit prints it.
        cached: whether the result came from the cache.
        started: seconds since the epoch; 0 if it never started.
        completed: seconds since the epoch; 0 if it has not ended.
        error: the reason why it failed; empty if it did not.
        log: its output.
    """

    digest: str
    name: str = ""
    cached: bool = False
    started: float = 0.0
    completed: float = 0.0
    error: str = ""
    log: bytearray = field(default_factory=bytearray)

    @property
    def stage(self) -> str:
        """The step's stage in the Dockerfile; empty for BuildKit's own steps."""
        match = _STAGE.match(self.name)
        return match["stage"] if match and match["stage"] != "internal" else ""

    @property
    def ran(self) -> bool:
        """Return whether it ran; BuildKit also reports steps that are never started."""
        return bool(self.started and self.completed) and not self.cached

    @property
    def instruction(self) -> str:
        """The step's instruction in the Dockerfile."""
        match = _STAGE.match(self.name)
        return " ".join(match["instruction"].split()) if match else self.name

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return max(0.0, self.completed - self.started)

    @property
    def text(self) -> str:
        """The log as text."""
        return bytes(self.log).decode(errors="replace")


class Steps:
    """The steps of a build, in the order in which BuildKit reported them."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps.values())

    def take(self, document: dict[str, Any]) -> list[Step]:
        """Update the steps from a document and return those that it completed."""
        done = []
        for vertex in document.get("vertexes") or ():
            step = self._step(vertex["digest"])
            was_done = bool(step.completed or step.cached)
            step.name = vertex.get("name", step.name)
            # A step that an earlier call of bake ran is cached in the next call.
            step.cached = step.cached or (bool(vertex.get("cached")) and not was_done)
            step.started = _seconds(vertex.get("started")) or step.started
            step.completed = _seconds(vertex.get("completed")) or step.completed
            step.error = vertex.get("error", step.error)
            if not was_done and (step.completed or step.cached):
                done.append(step)
        for log in document.get("logs") or ():
            self._step(log["vertex"]).log.extend(base64.b64decode(log.get("data") or ""))
        return done

    def _step(self, digest: str) -> Step:
        return self._steps.setdefault(digest, Step(digest))


def documents(lines: Iterable[str]) -> Iterator[dict[str, Any] | str]:
    """Yield the JSON documents in a stream of lines, and all other lines as text.

    Buildx indents its documents, and prints its errors between them as plain text.
    """
    pending = ""
    for line in lines:
        if not pending and not line.startswith("{"):
            if line.strip():
                yield line.rstrip("\n")
            continue
        pending += line
        if line.startswith("}") or line.rstrip().endswith("}"):
            try:
                document = json.loads(pending)
            except ValueError:
                continue
            yield document
            pending = ""
    if pending.strip():
        yield pending.rstrip("\n")


def _seconds(stamp: str | None) -> float:
    if not stamp:
        return 0.0
    # fromisoformat() of Python 3.10 does not accept nanoseconds.
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    base = datetime.fromisoformat(whole + "+00:00").timestamp()
    return base + float(f"0.{fraction or 0}")

"""Checked training requests, and the names of a run's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from entrypoints.training import checkpoints
from entrypoints.training.checkpoints import Checkpoint
from paddle_stacks.jobs import backends, schema

__all__ = [
    "CONFIG",
    "LIBRARY_LOG",
    "LOSS",
    "METRICS",
    "RESULT",
    "TrainingRequest",
]

CONFIG = "config.json"  # the configuration with defaults
METRICS = "metrics.jsonl"
LOSS = "loss.png"
RESULT = "result.json"  # exists when the run is finished
LIBRARY_LOG = "library.log"

_Kind = TypeVar("_Kind", bound="TrainingRequest")


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """The settings of a training, which can be passed to its processes.

    Args:
        config: the configuration.
        changes: the ``KEY=VALUE`` overrides of its file.
        world: processes on all nodes.
        run: the run's folder, locked by the job.
        base: the model's folder.
        tokenizer: the tokenizer's folder.
        fingerprints: of the data, by split.
        resume: the checkpoint to resume from, or None.
        grace: seconds between a signal and the forced stop.
    """

    config: schema.Config
    changes: tuple[str, ...]
    world: int
    run: Path
    base: Path
    tokenizer: Path
    fingerprints: Mapping[str, str]
    resume: Checkpoint | None
    grace: int

    def to_json(self) -> str:
        """Return the JSON for :meth:`from_json`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["config"] = str(self.config.path)
        values["resume"] = str(self.resume.folder) if self.resume else None
        return json.dumps({"job": self.config.schema.job, **values}, default=_plain)

    @classmethod
    def from_json(cls: type[_Kind], text: str) -> _Kind:
        """Return the request from JSON; the configuration is read again from its file."""
        values = json.loads(text)
        values["config"] = schema.load(
            Path(values["config"]),
            values["changes"],
            job=values.pop("job"),
            backend=backends.current(),
            world=values["world"],
        )
        if values["resume"]:
            values["resume"] = checkpoints.open_complete(Path(values["resume"]))
        return cls(
            **{field.name: _typed(str(field.type), values[field.name]) for field in fields(cls)}
        )


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _typed(kind: str, value: Any) -> Any:
    """Return a value of JSON as path or tuple, which JSON lacks."""
    if value is None:
        return None
    if kind.startswith("Path"):
        return Path(value)
    if kind.startswith("tuple[Path"):
        return tuple(map(Path, value))
    return tuple(value) if kind.startswith("tuple") else value

"""A training whose parts are there and checked, and the names of what it leaves."""

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
    "Training",
]

CONFIG = "config.json"  # the configuration, defaults resolved
METRICS = "metrics.jsonl"
LOSS = "loss.png"
RESULT = "result.json"  # there when the run is finished
LIBRARY_LOG = "library.log"

_Kind = TypeVar("_Kind", bound="Training")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every training is told, in a form that its processes can be told too.

    Args:
        config: what to do.
        changes: the ``KEY=VALUE`` that it was read with.
        world: processes of all nodes.
        run: the folder it is written to, held by the job.
        base: the model's folder.
        tokenizer: the tokenizer's folder.
        fingerprints: the data's, by split.
        resume: the checkpoint to go on from, or None.
        grace: seconds between a signal and the end.
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
        """Return it as text that :meth:`from_json` reads back."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["config"] = str(self.config.path)
        values["resume"] = str(self.resume.folder) if self.resume else None
        return json.dumps({"job": self.config.schema.job, **values}, default=_plain)

    @classmethod
    def from_json(cls: type[_Kind], text: str) -> _Kind:
        """Return what :meth:`to_json` wrote; the configuration is read again."""
        values = json.loads(text)
        values["config"] = schema.load(
            Path(values["config"]),
            values["changes"],
            job=values.pop("job"),
            backend=backends.current(),
            world=values["world"],
        )
        if values["resume"]:
            values["resume"] = checkpoints.open_whole(Path(values["resume"]))
        return cls(
            **{field.name: _typed(str(field.type), values[field.name]) for field in fields(cls)}
        )


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _typed(kind: str, value: Any) -> Any:
    """Return a value as what it was before JSON, which has neither paths nor tuples."""
    if value is None:
        return None
    if kind.startswith("Path"):
        return Path(value)
    if kind.startswith("tuple[Path"):
        return tuple(map(Path, value))
    return tuple(value) if kind.startswith("tuple") else value

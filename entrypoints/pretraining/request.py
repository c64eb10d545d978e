"""A pretraining whose parts are there and checked, in a form that its processes can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrypoints.training import checkpoints
from entrypoints.training.checkpoints import Checkpoint
from paddle_stacks.jobs import platforms, schema

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """What to train.

    Args:
        config: what to do.
        changes: the ``KEY=VALUE`` that it was read with.
        world: processes of all nodes.
        run: the folder it is written to, held by the job.
        base: the model's folder; without weights where training begins from scratch.
        tokenizer: the tokenizer's folder.
        corpus: weights and prefixes in turn, as upstream's ``input_dir`` has them; one
            prefix alone has no weight.
        fingerprints: of the corpus.
        resume: the checkpoint to go on from, or None.
        peak_tflops: what a process's device can compute in a second, for the share that is
            used; None where nobody has said it.
        grace: seconds between a signal and the end.
    """

    config: schema.Config
    changes: tuple[str, ...]
    world: int
    run: Path
    base: Path
    tokenizer: Path
    corpus: tuple[str, ...]
    fingerprints: Mapping[str, str]
    resume: Checkpoint | None
    peak_tflops: float | None
    grace: int

    def to_json(self) -> str:
        """Return it as text that :meth:`from_json` reads back."""
        values: dict[str, Any] = {
            "config": str(self.config.path),
            "changes": self.changes,
            "world": self.world,
            "run": str(self.run),
            "base": str(self.base),
            "tokenizer": str(self.tokenizer),
            "corpus": self.corpus,
            "fingerprints": dict(self.fingerprints),
            "resume": str(self.resume.folder) if self.resume else None,
            "peak_tflops": self.peak_tflops,
            "grace": self.grace,
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Return what :meth:`to_json` wrote; the configuration is read again."""
        values = json.loads(text)
        config = schema.load(
            Path(values["config"]),
            values["changes"],
            job="pretrain",
            backend=platforms.current(),
            world=values["world"],
        )
        resume = values["resume"]
        return cls(
            config=config,
            changes=tuple(values["changes"]),
            world=values["world"],
            run=Path(values["run"]),
            base=Path(values["base"]),
            tokenizer=Path(values["tokenizer"]),
            corpus=tuple(values["corpus"]),
            fingerprints=values["fingerprints"],
            resume=checkpoints.open_whole(Path(resume)) if resume else None,
            peak_tflops=values["peak_tflops"],
            grace=values["grace"],
        )

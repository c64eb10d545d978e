"""A fine-tuning whose parts are there and checked, and the names of what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from entrypoints.training.checkpoints import Checkpoint
from paddle_stacks.jobs.schema import Config

__all__ = ["CONFIG", "LIBRARY_LOG", "LOSS", "METRICS", "NO_TEMPLATE", "RESULT", "Request"]

CONFIG = "config.json"  # the configuration, defaults resolved
METRICS = "metrics.jsonl"
LOSS = "loss.png"
RESULT = "result.json"  # there when the run is finished
LIBRARY_LOG = "library.log"
NO_TEMPLATE = "none"  # the chat_template of those who want none


@dataclass(frozen=True)
class Request:
    """What to train.

    Args:
        config: what to do.
        run: the folder it is written to, held by this process.
        base: the model's folder.
        tokenizer: the tokenizer's folder.
        template: the chat template's file, if one is named.
        adapter: the adapter to begin with, or None for a new one.
        data: the data folder.
        fingerprints: the data's fingerprints, by split.
        resume: the checkpoint to go on from, or None.
    """

    config: Config
    run: Path
    base: Path
    tokenizer: Path
    template: tuple[Path, ...]
    adapter: Path | None
    data: Path
    fingerprints: Mapping[str, str]
    resume: Checkpoint | None

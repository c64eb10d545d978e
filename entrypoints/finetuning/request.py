"""Checked requests for fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from entrypoints.training.request import TrainingRequest

__all__ = ["Request"]


@dataclass(frozen=True, kw_only=True)
class Request(TrainingRequest):
    """A request for fine-tuning.

    Args:
        template: the chat template's file, or empty.
        adapter: the adapter to start from, or None for a new one.
    """

    template: tuple[Path, ...]
    adapter: Path | None

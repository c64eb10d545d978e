"""A fine-tuning whose parts are there and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from entrypoints.training.request import Training

__all__ = ["Request"]


@dataclass(frozen=True, kw_only=True)
class Request(Training):
    """A fine-tuning.

    Args:
        template: the chat template's file, if one is named.
        adapter: the adapter to begin with, or None for a new one.
    """

    template: tuple[Path, ...]
    adapter: Path | None

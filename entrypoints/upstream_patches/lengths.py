"""The number of positions in caches and masks of a fused model."""

from __future__ import annotations

from pathlib import Path

from paddle_stacks.jobs import json_files

__all__ = ["USUAL", "total_length"]

USUAL = 8192
"""Upstream's value for every model, in tokens."""

# Upstream looks for these in config.json, in this order.
_POSITIONS = ("max_position_embeddings", "max_sequence_length", "seq_length")


def total_length(model: str, requested: int) -> int:
    """Return the maximum number of tokens of prompt and answer in a model's caches.

    It only depends on the model, so a static graph supports all lengths that fit into it.

    Args:
        model: the model's folder.
        requested: the tokens of the longest prompt and its answer.
    """
    config = json_files.read_object(Path(model) / "config.json")
    positions = next((config[key] for key in _POSITIONS if config.get(key)), USUAL)
    return max(min(int(positions), USUAL), requested)

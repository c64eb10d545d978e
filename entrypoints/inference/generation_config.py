"""Defaults from a model's ``generation_config.json``."""

from __future__ import annotations

import math
from pathlib import Path

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files

__all__ = ["repetition_penalty"]


def repetition_penalty(folder: Path) -> float:
    """Return a model's default repetition penalty; 1.0 for none.

    transformers applies it to greedy decoding too. Temperature and other sampling parameters are
    ignored: decoding is greedy by default.

    Raises:
        RequestError: the file is damaged.
    """
    path = folder / "generation_config.json"
    value = json_files.read_object(path).get("repetition_penalty") if path.is_file() else None
    if value is None:
        return 1.0
    if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
        raise RequestError(
            f"repetition_penalty is {value!r:.40}, expected a number above 0",
            where=str(path),
            remedy="fetch the model again: ./inv fetch NAME --force",
        )
    return float(value)

"""The common part of the predictors with fused models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from entrypoints.fused.options import Options

__all__ = ["FusedPredictor", "truncated"]


class FusedPredictor:
    """Generates tokens with a fused model or its static graph.

    Args:
        options: of the run.
        config: the model's.
        model: the model, or its static graph.
        length: the number of positions of a row.
        ends: the tokens that end an answer.
        pad: the padding token.
    """

    def __init__(
        self, options: Options, config: Any, model: Any, length: int, ends: Sequence[int], pad: int
    ) -> None:
        self._options = options
        self._config = config
        self._model = model
        self._length = length
        self._ends = list(ends)
        self._pad = pad
        self._head_dim = config.hidden_size // config.num_attention_heads

    def _common_inputs(self, batch: int) -> dict[str, Any]:
        """Return the inputs that all models have, as arrays."""
        options = self._options
        temperature, top_p = (1.0, 0.0) if options.greedy else (options.temperature, options.top_p)
        min_length = options.max_length if options.benchmark else options.min_length
        return {
            "top_p": np.full([batch, 1], top_p, "float32"),
            "temperature": np.full([batch, 1], temperature, "float32"),
            "penalty_score": np.full([batch, 1], options.repetition_penalty, "float32"),
            "frequency_score": np.zeros([batch, 1], "float32"),
            "presence_score": np.zeros([batch, 1], "float32"),
            "min_length": np.full([batch, 1], min_length, "int64"),
            "max_length": np.full([batch, 1], options.max_length, "int64"),
            "step_idx": np.zeros([batch, 1], "int64"),
            "stop_flags": np.zeros([batch, 1], "bool"),
            "stop_nums": np.array([batch], "int64"),
        }


def truncated(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return the tokens before the first end token."""
    at = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:at])

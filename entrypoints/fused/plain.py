"""Generation by PaddleNLP's own ``generate()``, without fused operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle

from entrypoints.fused.options import Options
from entrypoints.fused.predictor import truncated

__all__ = ["PlainPredictor"]


class PlainPredictor:
    """Generates tokens with the unfused model.

    Args:
        options: of the run.
        ends: the tokens that end an answer.
    """

    def __init__(self, options: Options, ends: Sequence[int]) -> None:
        from paddlenlp.transformers import AutoModelForCausalLM

        self._options = options
        self._ends = list(ends)
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            options.model_name_or_path, dtype=options.dtype, low_cpu_mem_usage=True
        )
        self._model.eval()

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the tokens of each prompt's answer, without the end token."""
        longest = max(map(len, prompts))
        rows = [[self._ends[0]] * (longest - len(row)) + list(row) for row in prompts]
        seen = [[0] * (longest - len(row)) + [1] * len(row) for row in prompts]
        options = self._options
        # PaddleNLP suppresses a single end token only, not a list.
        ends = self._ends[0] if len(self._ends) == 1 else self._ends
        min_length = options.max_length if options.benchmark else options.min_length
        with paddle.no_grad():
            tokens = self._model.generate(
                input_ids=paddle.to_tensor(rows),
                attention_mask=paddle.to_tensor(seen),
                max_new_tokens=options.max_length,
                min_new_tokens=min_length if isinstance(ends, int) else 0,
                decode_strategy="greedy_search" if options.greedy else "sampling",
                top_p=1.0 if options.greedy else options.top_p,
                temperature=1.0 if options.greedy else options.temperature,
                repetition_penalty=options.repetition_penalty,
                eos_token_id=ends,
                pad_token_id=self._ends[0],
            )[0]
        return [truncated(row, self._ends) for row in tokens.tolist()]

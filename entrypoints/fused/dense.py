"""Generation without block attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from entrypoints.fused.predictor import FusedPredictor, truncated
from entrypoints.fused.static import Graph

__all__ = ["DensePredictor"]


class DensePredictor(FusedPredictor):
    """Generates tokens with a contiguous KV cache per row."""

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the tokens of each prompt's answer, without the end token.

        Args:
            prompts: at most ``batch_size`` of any length.
        """
        inputs = self._inputs(prompts)
        with paddle.no_grad():
            tokens = self._tokens(inputs)
        answers = tokens[:, max(map(len, prompts)) :].tolist()
        return [truncated(row, self._ends) for row in answers]

    def _tokens(self, inputs: Mapping[str, Any]) -> npt.NDArray[np.int64]:
        """Return padded prompts with their answers, ``[batch, tokens]``."""
        if isinstance(self._model, Graph):
            caches = inputs["cache_kvs"]
            named = {name: value for name, value in inputs.items() if name != "cache_kvs"}
            return self._model.run(
                named | {f"cache_kvs_{i}": each for i, each in enumerate(caches)}
            )
        tokens: npt.NDArray[np.int64] = self._model.generate(**inputs).numpy()
        return tokens

    def _inputs(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return the inputs of ``generate``, with new caches."""
        options, batch = self._options, len(prompts)
        lengths = np.array([len(prompt) for prompt in prompts], "int32").reshape(-1, 1)
        ids = np.full([batch, int(lengths.max())], self._pad, "int64")
        positions = np.zeros([batch, options.src_length + options.max_length], "int64")
        for row, place, prompt in zip(ids, positions, prompts, strict=True):
            row[: len(prompt)] = prompt
            place[: len(prompt)] = np.arange(len(prompt))
        values = {
            **self._common_inputs(batch),
            "input_ids": ids,
            "position_ids": positions,
            "eos_token_id": np.array(self._ends, "int64"),
            "seq_len_encoder": lengths,
            "seq_len_decoder": lengths,
            "tgt_ids": np.array([prompt[-1] for prompt in prompts], "int64").reshape(-1, 1),
            "tgt_pos": lengths.astype("int64") - 1,
            "pre_ids": np.full([batch, self._length], -1, "int64"),
        }
        tensors = {name: paddle.to_tensor(value) for name, value in values.items()}
        return tensors | self._masks(batch) | {"cache_kvs": self._caches(batch)}

    def _masks(self, batch: int) -> dict[str, Any]:
        """Return the attention masks of prompts and answers, 1 for visible positions."""
        length, dtype = self._length, self._options.dtype
        seen = np.broadcast_to(
            np.tril(np.ones([length, length], "float32")), [batch, 1, length, length]
        )
        return {
            "attention_mask": paddle.to_tensor(seen).cast(dtype),
            "tgt_generation_mask": paddle.ones([batch, 1, 1, length], "float32").cast(dtype),
        }

    def _caches(self, batch: int) -> list[Any]:
        config = self._config
        shape = [2, batch, config.num_key_value_heads, self._length, self._head_dim]
        layers = range(config.num_hidden_layers)
        return [paddle.zeros(shape, "float32").cast(self._options.dtype) for _ in layers]

"""Generation without block attention, by a model or by its static graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from entrypoints.fused.block import until
from entrypoints.fused.options import Options
from entrypoints.fused.static import Graph

__all__ = ["DensePredictor"]


class DensePredictor:
    """Generates tokens with one cache a row.

    Args:
        options: of the run.
        config: the model's.
        model: the model, or its static graph.
        length: positions of a row.
        ends: the tokens that end an answer.
        pad: the token that fills rows.
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

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the tokens of each prompt's answer, up to the end token and without it.

        Args:
            prompts: at most ``batch_size``, of unequal lengths.
        """
        inputs = self._inputs(prompts)
        with paddle.no_grad():
            tokens = self._tokens(inputs)
        answers = tokens[:, max(map(len, prompts)) :].tolist()
        return [until(row, self._ends) for row in answers]

    def _tokens(self, inputs: Mapping[str, Any]) -> npt.NDArray[np.int64]:
        """Return prompts, filled up, and answers: ``[batch, tokens]``."""
        if isinstance(self._model, Graph):
            caches = inputs["cache_kvs"]
            named = {name: value for name, value in inputs.items() if name != "cache_kvs"}
            return self._model.run(
                named | {f"cache_kvs_{i}": each for i, each in enumerate(caches)}
            )
        tokens: npt.NDArray[np.int64] = self._model.generate(**inputs).numpy()
        return tokens

    def _inputs(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return what ``generate`` takes, with new caches."""
        options, batch = self._options, len(prompts)
        lengths = np.array([len(prompt) for prompt in prompts], "int32").reshape(-1, 1)
        ids = np.full([batch, int(lengths.max())], self._pad, "int64")
        positions = np.zeros([batch, options.src_length + options.max_length], "int64")
        for row, place, prompt in zip(ids, positions, prompts, strict=True):
            row[: len(prompt)] = prompt
            place[: len(prompt)] = np.arange(len(prompt))
        temperature, top_p = (1.0, 0.0) if options.greedy else (options.temperature, options.top_p)
        least = options.max_length if options.benchmark else options.min_length
        values = {
            "input_ids": ids,
            "position_ids": positions,
            "penalty_score": np.full([batch, 1], options.repetition_penalty, "float32"),
            "frequency_score": np.zeros([batch, 1], "float32"),
            "presence_score": np.zeros([batch, 1], "float32"),
            "min_length": np.full([batch, 1], least, "int64"),
            "max_length": np.full([batch, 1], options.max_length, "int64"),
            "temperature": np.full([batch, 1], temperature, "float32"),
            "top_p": np.full([batch, 1], top_p, "float32"),
            "eos_token_id": np.array(self._ends, "int64"),
            "seq_len_encoder": lengths,
            "seq_len_decoder": lengths,
            "step_idx": np.zeros([batch, 1], "int64"),
            "stop_flags": np.zeros([batch, 1], "bool"),
            "tgt_ids": np.array([prompt[-1] for prompt in prompts], "int64").reshape(-1, 1),
            "tgt_pos": lengths.astype("int64") - 1,
            "pre_ids": np.full([batch, self._length], -1, "int64"),
            "stop_nums": np.array([batch], "int64"),
        }
        tensors = {name: paddle.to_tensor(value) for name, value in values.items()}
        return tensors | self._masks(batch) | {"cache_kvs": self._caches(batch)}

    def _masks(self, batch: int) -> dict[str, Any]:
        """Return what each prompt and each answer sees: 1 for a position that is seen."""
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
        head_dim = config.hidden_size // config.num_attention_heads
        shape = [2, batch, config.num_key_value_heads, self._length, head_dim]
        layers = range(config.num_hidden_layers)
        return [paddle.zeros(shape, "float32").cast(self._options.dtype) for _ in layers]

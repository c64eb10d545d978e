"""Generation with block attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from entrypoints.fused.predictor import FusedPredictor, truncated
from entrypoints.fused.rope import rotary_embedding
from entrypoints.fused.static import Graph

__all__ = ["BlockPredictor"]

_SCALES = ("k_quant_scales", "v_quant_scales", "k_dequant_scales", "v_dequant_scales")


class BlockPredictor(FusedPredictor):
    """Generates tokens with a block KV cache."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._caches = self._new_caches()
        self._rope = rotary_embedding(self._length, self._head_dim, self._config.rope_theta)

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the tokens of each prompt's answer, without the end token.

        Args:
            prompts: at most ``batch_size`` of any length.
        """
        state = self._state(prompts)
        state |= {"cache_kvs": self._caches, **self._new_scales(len(prompts))}
        steps = []
        with paddle.no_grad():
            while bool(state["not_need_stop"]):
                steps.append(self._step(state).reshape(-1))
        return [truncated(row, (-1, *self._ends)) for row in np.stack(steps, axis=1).tolist()]

    def _step(self, state: Mapping[str, Any]) -> npt.NDArray[np.int64]:
        """Return the next token of each row, ``[batch, 1]``, and update the state."""
        if isinstance(self._model, Graph):
            return self._model.run(_flat(state))
        tokens: npt.NDArray[np.int64] = self._model.generate(**state).numpy()
        return tokens

    def _state(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return the initial state."""
        options, batch = self._options, len(prompts)
        lengths = np.array([len(prompt) for prompt in prompts], "int32").reshape(-1, 1)
        ids = np.full([batch, self._length], self._pad, "int64")
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        state = {
            **self._common_inputs(batch),
            "input_ids": ids,
            "block_tables": self._block_tables(lengths.reshape(-1).tolist()),
            "eos_token_id": np.array(self._ends, "int64").reshape(-1, 1),
            "bad_tokens": np.array([-1], "int64"),
            "is_block_step": np.zeros([batch], "bool"),
            "seq_lens_this_time": lengths,
            "seq_lens_encoder": lengths,
            "seq_lens_decoder": np.zeros([batch, 1], "int32"),
            "not_need_stop": np.array([True]),
            "pre_ids": np.full([batch, options.max_length], -1, "int64"),
            "next_tokens": np.full([batch, 1], -1, "int64"),
        }
        return {name: paddle.to_tensor(value) for name, value in state.items()} | {
            "rope_emb": self._rope
        }

    def _block_tables(self, lengths: Sequence[int]) -> Any:
        """Return the block numbers of each row, followed by -1."""
        size = self._options.block_size
        tables = np.full([len(lengths), -(-self._length // size)], -1, "int32")
        first = 0
        for row, length in zip(tables, lengths, strict=True):
            count = -(-(length + self._options.max_length) // size)
            row[:count] = np.arange(first, first + count)
            first += count
        return tables

    def _new_caches(self) -> list[Any]:
        config, size = self._config, self._options.block_size
        blocks = self._options.batch_size * -(-self._length // size)
        shape = [blocks, config.num_key_value_heads, size, self._head_dim]
        dtype = "uint8" if config.cachekv_int8_type else self._options.dtype
        count = 2 * config.num_hidden_layers
        return [paddle.zeros(shape, "float32").cast(dtype) for _ in range(count)]

    def _new_scales(self, batch: int) -> dict[str, list[Any]]:
        """Return the scales of a dynamically quantized cache; empty for others."""
        if self._config.cachekv_int8_type != "dynamic":
            return {}
        shape = [batch, self._config.num_key_value_heads]
        layers = range(self._config.num_hidden_layers)
        return {name: [paddle.zeros(shape, "float32") for _ in layers] for name in _SCALES}


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state by the names of a static graph's inputs."""
    named: dict[str, Any] = {}
    for name, value in state.items():
        if name == "cache_kvs":
            for layer, (key, cached) in enumerate(zip(value[::2], value[1::2], strict=True)):
                named |= {f"key_caches_{layer}": key, f"value_caches_{layer}": cached}
        elif isinstance(value, list):
            named |= {f"{name}_{layer}": each for layer, each in enumerate(value)}
        else:
            named[name] = value
    return named

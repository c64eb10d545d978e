"""Batched decoding with a KV cache, for both engines.

Each text has a row of the cache and fills its slots from the first one on. So texts of
different length need no padding in the cache, rows are independent of each other, and rows
can be added and removed between steps. Padding tokens are written to the last slot, which is
never read.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import paddle
from paddle.utils.dlpack import from_dlpack

from entrypoints.inference.llama import Inputs, Slots, rotary_heads
from entrypoints.inference.prefill import prefill
from paddle_stacks.jobs.llama_config import LlamaConfig

__all__ = ["Cache", "Decoding", "Engine", "Model", "keep_freed_memory", "shared"]

_STEP = 64  # slots
_HIDDEN = np.float32(-1e30)

Array = npt.NDArray[Any]


class Engine(Protocol):
    """Computes one step."""

    def run(self, inputs: Inputs, cache: Cache) -> npt.NDArray[np.float32]:
        """Return logits, ``[vocabulary, rows]``, and update the cache; the inputs are arrays."""


class Cache:
    """Keys and values of every layer, ``[rows, key heads, slots, width]`` each.

    Args:
        config: the model's.
        rows: texts.
        slots: per row, including the one for padding.

    Attributes:
        tensors: the same memory, as each layer's :data:`Slots` of keys and of values;
            a new list whenever the memory is reallocated.
    """

    def __init__(self, config: LlamaConfig, rows: int, slots: int) -> None:
        self._config = config
        size = (rows, config.num_key_value_heads, slots, config.head_dim)
        # Zeros, because masked values must be finite.
        layers = range(config.num_hidden_layers)
        self._arrays = [(np.zeros(size, np.float32), np.zeros(size, np.float32)) for _ in layers]
        self.slots = slots
        self.tensors = self._as_tensors()

    def gather(self, parts: Sequence[tuple[Cache, Sequence[int]]], slots: int) -> None:
        """Replace the content by rows of caches, which may include this one.

        Args:
            parts: caches and rows of each, in the new order.
            slots: the new number per row; further slots are dropped.
        """
        for layer in range(len(self._arrays)):
            old = [(cache._arrays[layer], list(rows)) for cache, rows in parts]
            self._arrays[layer] = (_gathered(old, 0, slots), _gathered(old, 1, slots))
        self.slots = slots
        self.tensors = self._as_tensors()

    def _as_tensors(self) -> list[tuple[Slots, Slots]]:
        return [(self._views(keys), self._views(values)) for keys, values in self._arrays]

    def _views(self, array: npt.NDArray[np.float32]) -> Slots:
        flat = shared(array.reshape(-1, self._config.head_dim))
        # Not a second DLPack tensor: Paddle keeps one deleter per address, so the memory under
        # two such tensors would never be freed.
        whole = paddle.empty(array.shape)
        flat._share_buffer_to(whole)
        return flat, whole


def _gathered(
    parts: Sequence[tuple[tuple[Array, Array], list[int]]], which: int, slots: int
) -> npt.NDArray[np.float32]:
    first = parts[0][0][which]
    count = sum(len(rows) for _, rows in parts)
    merged = np.zeros((count, first.shape[1], slots, first.shape[3]), np.float32)
    at = 0
    for arrays, rows in parts:
        length = min(slots, arrays[which].shape[2])
        merged[at : at + len(rows), :, :length] = arrays[which][rows, :, :length]
        at += len(rows)
    return merged


class Model:
    """A model that decodes step by step.

    Args:
        engine: computes the steps.
        config: the model's.
        rotation: cosines and signed sines of every position, ``[context, width]`` each.
    """

    def __init__(self, engine: Engine, config: LlamaConfig, rotation: tuple[Array, Array]) -> None:
        self.engine = engine
        self.config = config
        self.rotation = rotation

    def begin(self, rows: int) -> Decoding:
        """Return an empty batch with this number of texts."""
        return Decoding(self, rows)

    def start(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        """Prefill prompts in chunks and return their batch."""
        # The cache grows with each chunk although the final length is known: attention covers
        # all slots, and copying the cache is cheaper than attending to empty ones.
        decoding = self.begin(len(prompts))
        prefill(decoding, prompts, pad_left=False)
        return decoding


class Decoding:
    """A batch of texts during decoding: its KV cache and the current logits.

    Args:
        model: the model.
        rows: texts in the batch.

    Attributes:
        logits: of the next tokens, ``[rows, vocabulary]``.
    """

    def __init__(self, model: Model, rows: int) -> None:
        self._model = model
        self._lengths = np.zeros(rows, dtype=np.int64)
        self._cache = Cache(model.config, rows, _STEP)
        self._mask: npt.NDArray[np.float32] | None = None
        self.logits = np.zeros((rows, model.config.vocab_size), dtype=np.float32)

    @property
    def columns(self) -> int:
        """Tokens of the longest text; every text uses this much of the cache."""
        return int(self._lengths.max())

    def _reserve(self, length: int) -> None:
        """Make room for texts of this length."""
        if length >= self._cache.slots:
            self._gather([(self._cache, range(len(self._lengths)))], length)

    def read(self, tokens: npt.NDArray[np.int64], is_token: npt.NDArray[np.bool_]) -> None:
        """Feed the next tokens.

        Args:
            tokens: ``[rows, new]``.
            is_token: ``[rows, new]``, false where a token is padding.
        """
        inputs, counts = self._next_inputs(tokens, is_token)
        logits = np.ascontiguousarray(self._model.engine.run(inputs, self._cache).T)
        self._lengths += counts
        # Rows with padding only keep their logits.
        self.logits = logits if counts.all() else np.where(counts[:, None], logits, self.logits)

    def read_all(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Feed the next tokens, and return the logits after each of them.

        Args:
            tokens: ``[rows, new]``.

        Returns:
            ``[rows x new, vocabulary]``.
        """
        inputs, counts = self._next_inputs(tokens, np.ones_like(tokens, dtype=bool))
        every = replace(inputs, last=np.arange(tokens.size))
        logits = self._model.engine.run(every, self._cache).T
        self._lengths += counts
        self.logits = np.ascontiguousarray(logits[inputs.last])
        return logits

    def step(self, tokens: Sequence[int]) -> None:
        """Feed the sampled token of every text."""
        column = np.array(tokens, dtype=np.int64)[:, None]
        self.read(column, np.ones_like(column, dtype=bool))

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these texts; a row that is repeated is duplicated."""
        rows = list(rows)
        self._lengths = self._lengths[rows]
        self.logits = self.logits[rows]
        self._gather([(self._cache, rows)], self.columns)

    def join(self, other: Decoding) -> None:
        """Append the texts of another batch."""
        parts = [(part._cache, range(len(part._lengths))) for part in (self, other)]
        self._lengths = np.concatenate([self._lengths, other._lengths])
        self.logits = np.concatenate([self.logits, other.logits])
        self._gather(parts, self.columns)

    def _gather(self, parts: Sequence[tuple[Cache, Sequence[int]]], length: int) -> None:
        # An eighth is left free: copying the cache now and then costs less than attending to
        # twice as many slots in every step.
        slots = -(-(length + length // 8 + 1) // _STEP) * _STEP
        self._cache.gather(parts, slots)
        self._mask = None

    def _next_inputs(self, tokens: Array, is_token: Array) -> tuple[Inputs, Array]:
        """Make room for a step; return its inputs and the number of new tokens per row."""
        counts = is_token.sum(axis=1)
        self._reserve(int((self._lengths + counts).max()))
        positions = np.maximum(self._lengths[:, None] + np.cumsum(is_token, axis=1) - 1, 0)
        return self._inputs(tokens, is_token, positions), counts

    def _inputs(self, tokens: Array, is_token: Array, positions: Array) -> Inputs:
        rows, new = tokens.shape
        config, slots = self._model.config, self._cache.slots
        shape = (rows, new, rotary_heads(config), config.head_dim)
        cos, sin = (
            _broadcast(table[positions][:, :, None], shape) for table in self._model.rotation
        )
        heads = np.arange(rows * config.num_key_value_heads).reshape(rows, -1, 1) * slots
        slot = np.where(is_token, positions, slots - 1)[:, None]
        last = new - 1 - is_token[:, ::-1].argmax(axis=1) + np.arange(rows) * new
        if new > 1:
            self._mask = None
        mask = self._whole_mask(positions) if new > 1 else self._next_mask(positions)
        return Inputs(tokens.copy(), cos, sin, mask, (heads + slot).reshape(-1), last)

    def _next_mask(self, positions: Array) -> npt.NDArray[np.float32]:
        """Return the mask for one token per row: the previous mask with one more slot."""
        if self._mask is None:
            self._mask = self._whole_mask(positions)
        else:
            self._mask[np.arange(len(positions)), :, :, positions[:, 0]] = 0
        return self._mask

    def _whole_mask(self, positions: Array) -> npt.NDArray[np.float32]:
        rows, new = positions.shape
        config, slots = self._model.config, self._cache.slots
        visible = np.arange(slots) <= positions[:, :, None]
        mask = np.where(visible, np.float32(0), _HIDDEN)[:, None, None]
        kv_heads = config.num_key_value_heads
        group = config.num_attention_heads // kv_heads
        whole = _broadcast(mask, (rows, kv_heads, group, new, slots))
        return whole.reshape(rows, kv_heads, group * new, slots)


def _broadcast(array: Array, shape: tuple[int, ...]) -> Array:
    return np.array(np.broadcast_to(array, shape), order="C")


def shared(array: Array) -> Any:
    """Return a tensor that shares an array's memory, which must be contiguous and writable."""
    return from_dlpack(array.__dlpack__())


def keep_freed_memory() -> None:
    """Make the allocator keep large freed blocks instead of returning them to the system.

    Every step allocates temporaries of the same sizes. Returned blocks are mapped and zeroed
    again page by page, which took half of the prefill time of a long prompt.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # mallopt(3)
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(m_mmap_threshold, 2**30)
    mallopt(m_trim_threshold, 2**31 - 1)

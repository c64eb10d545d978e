"""Tiny random Llama checkpoints, and a Llama in NumPy to compare the native engine with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from entrypoints.models import safetensors_file
from entrypoints.models.llama import paddle_weight_shapes
from entrypoints.models.safetensors_file import Tensor
from entrypoints.native.config import NativeConfig

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1600,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
"""Sizes that are no multiples of a panel, and grouped queries."""

_STORED = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "BF16": np.uint16}


def rounded_to_bfloat16(array: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(array: np.ndarray) -> np.ndarray:
    return (array.astype(np.uint32) << 16).view(np.float32)


def random_weights(config: NativeConfig, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in paddle_weight_shapes(config.llama).items():
        values = random.normal(size=shape).astype(np.float32)
        scale = shape[0] ** -0.5 if len(shape) == 2 and "embed" not in name else 0.3
        weights[name] = values * np.float32(scale) + (1 if len(shape) == 1 else 0)
    return {name: array.astype(np.float32) for name, array in weights.items()}


def write_checkpoint(
    folder: Path, weights: dict[str, np.ndarray], config: dict[str, Any], dtype: str = "F32"
) -> Path:
    """Write a checkpoint as PaddleNLP does; int8 arrays stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    stored = []
    for name, array in weights.items():
        kind = "I8" if array.dtype == np.int8 else dtype
        values = rounded_to_bfloat16(array) if kind == "BF16" else array.astype(_STORED[kind])
        # Unsigned integers of the item's size, as the writer wants them.
        values = np.ascontiguousarray(values).view(f"<u{values.dtype.itemsize}")
        stored.append(Tensor(name, kind, array.shape, lambda values=values: values))
    safetensors_file.write(folder / "model.safetensors", stored)
    return folder


@dataclass
class Reference:
    """A Llama in float64, whole sequences at once.

    Args:
        config: of the network.
        weights: by PaddleNLP's names; those of shifting and smoothing by our network's.
        steps: what activations and caches are rounded to multiples of, by product.
    """

    config: NativeConfig
    weights: dict[str, np.ndarray]
    steps: dict[str, np.ndarray] = field(default_factory=dict)

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Return the logits behind each token, ``[tokens, vocabulary]``."""
        x = self._weight("llama.embed_tokens.weight")[tokens]
        for layer in range(self.config.llama.num_hidden_layers):
            prefix = f"llama.layers.{layer}."
            x = x + self._attention(prefix, self._norm(prefix + "input_layernorm", x))
            x = x + self._mlp(prefix, self._norm(prefix + "post_attention_layernorm", x))
        x = self._norm("llama.norm", x)
        if self.config.llama.tie_word_embeddings:
            return x @ self._weight("llama.embed_tokens.weight").T
        return x @ self._weight("lm_head.weight")

    def _weight(self, name: str) -> np.ndarray:
        return self.weights[name].astype(np.float64)

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        scale = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config.llama.rms_norm_eps)
        return x * scale * self._weight(f"{name}.weight") + self.weights.get(f"{name}.bias", 0)

    def _rounded(self, name: str, x: np.ndarray) -> np.ndarray:
        if name not in self.steps:
            return x
        step = self.steps[name].astype(np.float64)
        return np.clip(np.rint(x / step), -128, 127) * step

    def _input(self, name: str, x: np.ndarray) -> np.ndarray:
        shifted = x + self.weights.get(f"{name}.shift_bias", 0)
        return self._rounded(name, shifted * self.weights.get(f"{name}.smooth_weight", 1))

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self._weight(f"{name}.weight") + self.weights.get(f"{name}.bias", 0)

    def _rotated(self, x: np.ndarray) -> np.ndarray:
        cos, sin = (table[: len(x), None] for table in self.config.rotary_tables())
        low, high = np.split(x, 2, axis=-1)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    def _attention(self, prefix: str, x: np.ndarray) -> np.ndarray:
        llama = self.config.llama
        dim = llama.head_dim
        name = f"{prefix}self_attn."
        x = self._input(f"{name}q_proj", x)
        q, k, v = (self._linear(f"{name}{part}_proj", x).reshape(len(x), -1, dim) for part in "qkv")
        k = self._rounded(f"{name}cachek_matmul", self._rotated(k))
        v = self._rounded(f"{name}cachev_matmul", v)
        group = llama.num_attention_heads // llama.num_key_value_heads
        k, v = (np.repeat(part, group, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", self._rotated(q), k) / dim**0.5
        scores[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", scores, v).reshape(len(x), -1)
        return self._linear(f"{name}o_proj", self._input(f"{name}o_proj", mixed))

    def _mlp(self, prefix: str, x: np.ndarray) -> np.ndarray:
        x = self._input(f"{prefix}mlp.gate_proj", x)
        gate = self._linear(f"{prefix}mlp.gate_proj", x)
        product = gate / (1 + np.exp(-gate)) * self._linear(f"{prefix}mlp.up_proj", x)
        down = f"{prefix}mlp.down_proj"
        return self._linear(down, self._input(down, product))

"""One step of a Llama on a CPU, shared by both engines.

With tensors, :class:`Network` computes the steps of the dynamic engine; with a program's
variables it builds the graph that ``export --static`` writes. The weights have PaddleNLP's
names and layout, so the mapped file is used in place. The differences from PaddleNLP's own
network reflect the cost of operations on a CPU with Paddle 3.0.0b2, measured with SmolLM2-135M
on two cores:

* keys and values are written into a fixed cache. Upstream concatenates past and new ones in
  every step: with 8 texts of 512 tokens that copies 190 MB and takes three quarters of the
  step;
* the cache is ``[rows, heads, slots, head_dim]``, ready for the product, and grouped
  queries are rows of one product instead of copies of the keys;
* a sum or product of tensors with different shapes takes up to 50 times as long as one with
  equal shapes, so masks and rotations are expanded once per step for all layers; where
  broadcasting is unavoidable, the smaller tensor is on the right, which is cheaper;
* squares are products, because ``pow`` calls libm. Paddle has a fused kernel for norms, five
  times as fast with 8 texts, but it requires AVX-512 and crashes on other processors;
* the head is the left factor: ``[vocabulary, hidden]`` times 8 texts runs at memory
  bandwidth, the other order at a third of it.

A step of 8 texts with 512 tokens each takes 30 ms instead of 78; a prompt of 512 tokens
half a second instead of 1.7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn

from paddle_stacks.jobs.llama_config import LlamaConfig, from_config

__all__ = [
    "Inputs",
    "Network",
    "Slots",
    "Tap",
    "cache_names",
    "llama_config",
    "rotary_heads",
    "rotation_tables",
]

Tensor = Any
"""A ``paddle.Tensor``, or a program's variable."""

Slots = tuple[Tensor, Tensor]
"""A layer's keys or values: ``[rows x heads x slots, head_dim]`` to write, and the same
memory as ``[rows, heads, slots, head_dim]`` to read."""

Tap = Callable[[str, Tensor], Tensor]
"""Called with the name and the input of each product; returns the input to use: the same for
observers, or its int8 approximation. Names are like ``llama.layers.0.mlp.down_proj``; products
that share an input are called once, for the first of them. The products with the cache have
upstream's names, ``….self_attn.cachek_matmul`` and ``….cachev_matmul``; their inputs are the new
keys and values, ``[rows, heads, new, head_dim]``."""


def llama_config(config: Any) -> LlamaConfig:
    """Return the configuration that PaddleNLP's ``LlamaConfig`` describes.

    Raises:
        RequestError: it is impossible.
    """
    keys = [field.name for field in fields(LlamaConfig) if field.name != "name"]
    return from_config({key: getattr(config, key) for key in keys}, where="config.json")


def rotary_heads(config: LlamaConfig) -> int:
    """Return the number of heads with rotary embeddings: those of queries and of keys."""
    return config.num_attention_heads + config.num_key_value_heads


@dataclass(frozen=True)
class Inputs:
    """The inputs of a step besides weights and caches.

    Args:
        tokens: ``[rows, new]``, int64.
        cos: of each token's position, ``[rows, new, rotary heads, head_dim]``.
        sin: likewise; its first half is negated.
        mask: added to the scores, ``[rows, KV heads, group x new, slots]``.
        slots: cache slots of the new tokens, ``[rows x KV heads x new]``, int64.
        last: indices of the tokens in ``rows x new`` to return logits of, ``[rows]``, int64.
    """

    tokens: Tensor
    cos: Tensor
    sin: Tensor
    mask: Tensor
    slots: Tensor
    last: Tensor


_EMBEDDING = "llama.embed_tokens.weight"
_KINDS = ("weight", "bias", "shift_bias", "smooth_weight")


class Network:
    """A Llama with its weights.

    It also supports the weights that shifting and smoothing add (``quantizing``): biases of
    norms and projections, a vector added to a projection's input (``shift_bias``) and one that
    scales it (``smooth_weight``).

    Args:
        config: the model's.
        weights: tensors, or a program's variables, by PaddleNLP's names.
        tap: called with the input of every product; may be None.
    """

    def __init__(
        self, config: LlamaConfig, weights: Mapping[str, Tensor], tap: Tap | None = None
    ) -> None:
        self._config = config
        self._embedding = weights[_EMBEDDING]
        self._norm = weights["llama.norm.weight"]
        self._head = weights[_EMBEDDING if config.tie_word_embeddings else "lm_head.weight"]
        self._layers = [_Layer(weights, layer, tap) for layer in range(config.num_hidden_layers)]

    def logits(self, inputs: Inputs, caches: Sequence[tuple[Slots, Slots]]) -> Tensor:
        """Return the logits of the next tokens, ``[vocabulary, rows]``.

        The new tokens' keys and values are written into the caches.

        Args:
            inputs: of this step.
            caches: each layer's keys and values.
        """
        epsilon = self._config.rms_norm_eps
        hidden = nn.functional.embedding(inputs.tokens, self._embedding)
        for layer, (keys, values) in zip(self._layers, caches, strict=True):
            normal = layer.normalized("input_layernorm", hidden, epsilon)
            hidden = hidden + _attention(self._config, layer, normal, inputs, keys, values)
            normal = layer.normalized("post_attention_layernorm", hidden, epsilon)
            hidden = hidden + _feed_forward(layer, normal)
        hidden = paddle.gather(hidden.reshape([-1, self._config.hidden_size]), inputs.last)
        hidden = _normalized(hidden, self._norm, epsilon)
        # An untied head is the weight of a linear layer, [hidden, vocabulary].
        transposed = not self._config.tie_word_embeddings
        return paddle.matmul(self._head, hidden, transpose_x=transposed, transpose_y=True)


class _Layer:
    """A layer's weights and the operations with one of them."""

    def __init__(self, weights: Mapping[str, Tensor], number: int, tap: Tap | None) -> None:
        self._prefix = f"llama.layers.{number}."
        self._tap = tap
        self._own: dict[str, dict[str, Tensor]] = {kind: {} for kind in _KINDS}
        for name, weight in weights.items():
            if name.startswith(self._prefix):
                part, _, kind = name.removeprefix(self._prefix).rpartition(".")
                self._own[kind][part] = weight

    def normalized(self, name: str, hidden: Tensor, epsilon: float) -> Tensor:
        normal = _normalized(hidden, self._own["weight"][name], epsilon)
        bias = self._own["bias"].get(name)
        return normal if bias is None else normal + bias

    def input_of(self, name: str, hidden: Tensor) -> Tensor:
        """Return a projection's input after shift and smoothing."""
        shift, scale = self._own["shift_bias"].get(name), self._own["smooth_weight"].get(name)
        hidden = hidden if shift is None else hidden + shift
        return self.tapped(name, hidden if scale is None else hidden * scale)

    def tapped(self, name: str, tensor: Tensor) -> Tensor:
        return tensor if self._tap is None else self._tap(self._prefix + name, tensor)

    def projected(self, name: str, hidden: Tensor) -> Tensor:
        product = paddle.matmul(hidden, self._own["weight"][name])
        bias = self._own["bias"].get(name)
        return product if bias is None else product + bias


def _normalized(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    variance = (hidden * hidden).mean(-1, keepdim=True)
    return hidden * paddle.rsqrt(variance + epsilon) * weight


def _feed_forward(layer: _Layer, hidden: Tensor) -> Tensor:
    hidden = layer.input_of("mlp.gate_proj", hidden)
    gate = nn.functional.silu(layer.projected("mlp.gate_proj", hidden))
    product = gate * layer.projected("mlp.up_proj", hidden)
    return layer.projected("mlp.down_proj", layer.input_of("mlp.down_proj", product))


def _attention(
    config: LlamaConfig, layer: _Layer, hidden: Tensor, inputs: Inputs, keys: Slots, values: Slots
) -> Tensor:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = config.head_dim
    hidden = layer.input_of("self_attn.q_proj", hidden)
    parts = [layer.projected(f"self_attn.{name}_proj", hidden) for name in "qk"]
    rotary = paddle.concat(parts, axis=-1).reshape([0, 0, heads + kv_heads, head_dim])
    # rotate_half(x) * sin is roll(x, half) * [-sin, sin], since both halves of sin are equal.
    rotary = rotary * inputs.cos + paddle.roll(rotary, head_dim // 2, axis=-1) * inputs.sin
    query, key = paddle.split(rotary.transpose([0, 2, 1, 3]), [heads, kv_heads], axis=1)
    value = layer.projected("self_attn.v_proj", hidden).reshape([0, 0, kv_heads, head_dim])
    key = layer.tapped("self_attn.cachek_matmul", key)
    value = layer.tapped("self_attn.cachev_matmul", value.transpose([0, 2, 1, 3]))
    all_keys = _written(keys, inputs.slots, key)
    all_values = _written(values, inputs.slots, value)
    # The group of queries of a KV head is contiguous, so it forms one matrix.
    query = (query * head_dim**-0.5).reshape([0, kv_heads, -1, head_dim])
    scores = paddle.matmul(query, all_keys, transpose_y=True) + inputs.mask
    mixed = paddle.matmul(nn.functional.softmax(scores, axis=-1), all_values)
    mixed = mixed.reshape([0, heads, -1, head_dim]).transpose([0, 2, 1, 3])
    mixed = mixed.reshape([0, 0, heads * head_dim])
    return layer.projected("self_attn.o_proj", layer.input_of("self_attn.o_proj", mixed))


def _written(memory: Slots, where: Tensor, new: Tensor) -> Tensor:
    """Write into a cache in place, and return the whole cache.

    Args:
        memory: the cache.
        where: as :attr:`Inputs.slots`.
        new: ``[rows, heads, new, head_dim]``.
    """
    flat, whole = memory
    new = new.reshape([-1, new.shape[-1]])
    if paddle.in_dynamic_mode():
        paddle.scatter_(flat, where, new)
        return whole
    # Paddle's functions create new variables in a program; its operators need not. The
    # second operator orders the read of the cache after the write. It does not copy, because
    # its kernel detects that both share their memory.
    block = paddle.static.default_main_program().current_block()
    block.append_op(
        type="scatter",
        inputs={"X": [flat], "Ids": [where], "Updates": [new]},
        outputs={"Out": [flat]},
        attrs={"overwrite": True},
    )
    block.append_op(
        type="reshape2",
        inputs={"X": [flat], "Shape": [paddle.shape(whole)]},
        outputs={
            "Out": [whole],
            "XShape": [block.create_var(name=f"{whole.name}.xshape", dtype="float32")],
        },
    )
    return whole


def cache_names(layer: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the names of a layer's :data:`Slots` in a program: of keys, then of values."""
    keys, values = (f"cache.{layer}.{kind}" for kind in ("keys", "values"))
    return (f"{keys}.flat", keys), (f"{values}.flat", values)


def rotation_tables(
    config: Any, context: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return cosines and signed sines of all positions, ``[context, head_dim]`` each.

    They are computed by PaddleNLP's embeddings, which support every scaling.

    Args:
        config: PaddleNLP's ``LlamaConfig``.
        context: the number of positions.
    """
    from paddlenlp.transformers.llama.modeling import LlamaAttention

    # A stand-in with the attributes that _init_rope reads; a real layer would have weights.
    layer: Any = type("Layer", (), {"_init_rope": LlamaAttention._init_rope})()
    head_dim = config.hidden_size // config.num_attention_heads
    layer.config, layer.head_dim = config, head_dim
    layer.max_position_embeddings = config.max_position_embeddings
    layer._init_rope()
    tables = layer.rotary_emb(paddle.zeros([1]), context)
    cos, sin = (part.numpy()[0, :context, 0] for part in tables)
    half = head_dim // 2
    return cos, np.concatenate([-sin[:, :half], sin[:, half:]], axis=1)

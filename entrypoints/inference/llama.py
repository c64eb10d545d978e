"""A step of a Llama on a CPU, written once for both engines.

Over tensors, :class:`Network` is the dynamic engine's; over a program's variables it
makes the graph that ``export --static`` writes. The weights are PaddleNLP's,
by its names and in its layout, so that they are used where the file is mapped. What
differs from PaddleNLP's own network is what its operations cost on a CPU with Paddle
3.0.0b2, measured with SmolLM2-135M on two cores:

* keys and values are written into a cache that stays where it is. Upstream joins the
  past and the new at every step: with 8 texts of 512 tokens that copies 190 MB, and
  takes three quarters of the step;
* the cache is ``[rows, heads, slots, width]``, ready for the product, and grouped
  queries are rows of one product instead of copies of the keys;
* a sum or product of tensors of unlike shapes takes up to 50 times as long as one of
  like shapes, so masks and rotations come in their full shape, made once per step for
  all layers; where one has to be stretched it stands on the right, which is the
  cheaper side;
* squares are products: ``pow`` calls libm. Paddle has one kernel for all of a norm, five
  times as fast with 8 texts, but of AVX-512's instructions alone: it would end the process
  on every processor that has none;
* the head is the left factor: ``[vocabulary, hidden]`` times 8 texts is at the memory's
  speed, the other way round at a third of it.

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
"""A layer's keys or values: ``[rows x heads x slots, width]`` to write, and the same
memory as ``[rows, heads, slots, width]`` to read."""

Tap = Callable[[str, Tensor], Tensor]
"""Is given what a product is about to take, and returns what it takes: itself, to look
on, or its value in eight bits. The name is the product's, as ``llama.layers.0.mlp.down_proj``;
products that share an input have one tap, the first one's. The products with the cache
have upstream's names, ``….self_attn.cachek_matmul`` and ``….cachev_matmul``, and are given the
new keys and values, ``[rows, heads, new, width]``."""


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
    """What a step is given besides weights and caches.

    Args:
        tokens: ``[rows, new]``, int64.
        cos: of each token's position, ``[rows, new, turned heads, width]``.
        sin: likewise; its first half is negative.
        mask: added to the scores, ``[rows, key heads, group x new, slots]``.
        slots: where each key head's new tokens go, ``[rows x key heads x new]``, int64.
        last: which of the ``rows x new`` tokens logits are wanted of, ``[rows]``, int64.
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

    Besides those of every Llama it takes what shift and smoothing leave (``quantizing``):
    biases of norms and projections, and a vector that is added to a projection's input
    (``shift_bias``) and one that scales it (``smooth_weight``).

    Args:
        config: the model's.
        weights: tensors, or a program's variables, by PaddleNLP's names.
        tap: sees what every product takes; None for none.
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
        """Return the logits of the tokens that are next, ``[vocabulary, rows]``.

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
        # A head of its own is a linear layer's, [hidden, vocabulary].
        transposed = not self._config.tie_word_embeddings
        return paddle.matmul(self._head, hidden, transpose_x=transposed, transpose_y=True)


class _Layer:
    """A layer's weights, and what is done with one of them."""

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

    def entering(self, name: str, hidden: Tensor) -> Tensor:
        """Return what a projection takes of what it is given."""
        shift, scale = self._own["shift_bias"].get(name), self._own["smooth_weight"].get(name)
        hidden = hidden if shift is None else hidden + shift
        return self.seen(name, hidden if scale is None else hidden * scale)

    def seen(self, name: str, tensor: Tensor) -> Tensor:
        return tensor if self._tap is None else self._tap(self._prefix + name, tensor)

    def projected(self, name: str, hidden: Tensor) -> Tensor:
        product = paddle.matmul(hidden, self._own["weight"][name])
        bias = self._own["bias"].get(name)
        return product if bias is None else product + bias


def _normalized(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    variance = (hidden * hidden).mean(-1, keepdim=True)
    return hidden * paddle.rsqrt(variance + epsilon) * weight


def _feed_forward(layer: _Layer, hidden: Tensor) -> Tensor:
    hidden = layer.entering("mlp.gate_proj", hidden)
    gate = nn.functional.silu(layer.projected("mlp.gate_proj", hidden))
    product = gate * layer.projected("mlp.up_proj", hidden)
    return layer.projected("mlp.down_proj", layer.entering("mlp.down_proj", product))


def _attention(
    config: LlamaConfig, layer: _Layer, hidden: Tensor, inputs: Inputs, keys: Slots, values: Slots
) -> Tensor:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = config.head_dim
    hidden = layer.entering("self_attn.q_proj", hidden)
    parts = [layer.projected(f"self_attn.{name}_proj", hidden) for name in "qk"]
    rotary = paddle.concat(parts, axis=-1).reshape([0, 0, heads + kv_heads, head_dim])
    # rotate_half(x) * sin is roll(x, half) * [-sin, sin]: both halves of sin are alike.
    rotary = rotary * inputs.cos + paddle.roll(rotary, head_dim // 2, axis=-1) * inputs.sin
    query, key = paddle.split(rotary.transpose([0, 2, 1, 3]), [heads, kv_heads], axis=1)
    value = layer.projected("self_attn.v_proj", hidden).reshape([0, 0, kv_heads, head_dim])
    key = layer.seen("self_attn.cachek_matmul", key)
    value = layer.seen("self_attn.cachev_matmul", value.transpose([0, 2, 1, 3]))
    all_keys = _written(keys, inputs.slots, key)
    all_values = _written(values, inputs.slots, value)
    # A key head's group of queries lies side by side, so that its rows make one matrix.
    query = (query * head_dim**-0.5).reshape([0, kv_heads, -1, head_dim])
    scores = paddle.matmul(query, all_keys, transpose_y=True) + inputs.mask
    mixed = paddle.matmul(nn.functional.softmax(scores, axis=-1), all_values)
    mixed = mixed.reshape([0, heads, -1, head_dim]).transpose([0, 2, 1, 3])
    mixed = mixed.reshape([0, 0, heads * head_dim])
    return layer.projected("self_attn.o_proj", layer.entering("self_attn.o_proj", mixed))


def _written(memory: Slots, where: Tensor, new: Tensor) -> Tensor:
    """Write into a cache, where it is, and return all of it.

    Args:
        memory: the cache.
        where: as :attr:`Inputs.slots`.
        new: ``[rows, heads, new, width]``.
    """
    flat, whole = memory
    new = new.reshape([-1, new.shape[-1]])
    if paddle.in_dynamic_mode():
        paddle.scatter_(flat, where, new)
        return whole
    # Paddle's functions make new variables in a program; its operators need not. The
    # second one says that the cache is read after it was written. It copies nothing:
    # its kernel sees that the two are one memory.
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
    """Return cosines and signed sines of every position, ``[context, head_dim]`` each.

    They are those of PaddleNLP's embeddings, whatever scaling the configuration asks for.

    Args:
        config: PaddleNLP's ``LlamaConfig``.
        context: positions.
    """
    from paddlenlp.transformers.llama.modeling import LlamaAttention

    # What _init_rope reads of an attention layer, which would come with weights.
    layer: Any = type("Layer", (), {"_init_rope": LlamaAttention._init_rope})()
    head_dim = config.hidden_size // config.num_attention_heads
    layer.config, layer.head_dim = config, head_dim
    layer.max_position_embeddings = config.max_position_embeddings
    layer._init_rope()
    tables = layer.rotary_emb(paddle.zeros([1]), context)
    cos, sin = (part.numpy()[0, :context, 0] for part in tables)
    half = head_dim // 2
    return cos, np.concatenate([-sin[:, :half], sin[:, half:]], axis=1)

"""Attention without block attention, composed of operators that every build of Paddle has.

ROCm builds of Paddle 3.0.0b2 have no kernel for ``variable_length_memory_efficient_attention``
(CUTLASS), and an empty one for ``masked_multihead_attention``. These functions replace both and
``write_cache_kv``, with the cache layout ``[2, batch, heads, positions, head_dim]``. They can be
exported to graphs. They use more memory bandwidth than a kernel.
"""

from __future__ import annotations

from typing import Any

import paddle

__all__ = [
    "masked_multihead_attention",
    "variable_length_memory_efficient_attention",
    "write_cache",
]

_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_LOWEST = -1e30  # a score with a softmax of zero


def variable_length_memory_efficient_attention(
    query: Any,
    key: Any,
    value: Any,
    seq_lens: Any,
    kv_seq_lens: Any,
    mask: Any = None,
    scale: float | None = None,
) -> Any:
    """Return the attention of prompts, ``[batch, heads, queries, head_dim]``.

    Args:
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, key heads, keys, head_dim]``.
        value: as ``key``.
        seq_lens: queries of each row; unused, because callers drop the rest.
        kv_seq_lens: keys of each row, ``[batch, 1]``.
        mask: added to the scores, ``[batch, 1, at least queries, at least keys]``; or None.
        scale: of the scores; None for the default.
    """
    heads, head_dim = query.shape[1], query.shape[3]
    queries, keys = paddle.shape(query)[2], paddle.shape(key)[2]
    scale = head_dim**-0.5 if scale is None else scale
    scores = _product(query, _repeated(key, heads), transpose=True, scale=scale)
    if mask is not None:
        scores = scores + mask[:, :, :queries, :keys].cast("float32")
    within = paddle.arange(keys).cast("int32") < kv_seq_lens.cast("int32").reshape([-1, 1, 1, 1])
    return _mixed(scores, within, _repeated(value, heads), query.dtype)


def write_cache(key: Any, value: Any, cache: Any, lengths: Any) -> Any:
    """Write the keys and values of prompts to the beginning of a cache, in place.

    Args:
        key: ``[batch, key heads, keys, head_dim]``.
        value: as ``key``.
        cache: ``[2, batch, key heads, positions, head_dim]``.
        lengths: keys of each row, ``[batch, 1]``; the rest of a row stays.
    """
    keys = paddle.shape(key)[2]
    new = paddle.stack([key, value])
    old = cache[:, :, :, :keys]
    within = paddle.arange(keys).cast("int32") < lengths.cast("int32").reshape([-1, 1, 1])
    within = within.unsqueeze([0, 4])  # [1, batch, 1, keys, 1]
    first = _chosen(within, new, old)
    paddle.assign(paddle.concat([first, cache[:, :, :, keys:]], axis=3), cache)
    return cache


def masked_multihead_attention(
    x: Any,
    cache_kv: Any,
    bias: Any = None,
    src_mask: Any = None,
    sequence_lengths: Any = None,
    rotary_tensor: Any = None,
    rotary_emb_dims: int = 0,
    use_neox_rotary_style: bool = False,
    qkv_out_scale: Any = None,
    out_shift: Any = None,
    out_smooth: Any = None,
    out_scale: float = -1,
    quant_round_type: int = 1,
    quant_max_bound: float = 127.0,
    quant_min_bound: float = -127.0,
    compute_dtype: str = "default",
) -> tuple[Any, Any]:
    """Return the attention of one new token in each row, and the cache that it was written to.

    Args:
        x: queries, keys and values, ``[batch, (heads + 2 * key heads) * head_dim]``;
            integers with ``qkv_out_scale``.
        cache_kv: ``[2, batch, key heads, positions, head_dim]``, written in place.
        bias: added to ``x``, or None.
        src_mask: added to the scores, ``[batch, 1, 1, positions]``; or None.
        sequence_lengths: cached tokens of each row, ``[batch, 1]``; 0 for a finished row,
            whose result is 0.
        rotary_tensor: cosines and sines, ``[2, batch, 1, 1, head_dim]``.
        rotary_emb_dims: 0 for no rotation.
        use_neox_rotary_style: whether halves are rotated, or pairs.
        qkv_out_scale: the scale of each column of ``x``.
        out_shift: added to the result before it is quantized, or None.
        out_smooth: the result is multiplied by it, or None.
        out_scale: of the int8 result; not positive for an unquantized result.
        quant_round_type: 0 rounds half to even, 1 half away from zero.
        quant_max_bound: the largest integer.
        quant_min_bound: the smallest.
        compute_dtype: ``fp16``, ``bf16`` or ``fp32`` if ``x`` has integers.
    """
    dtype = _DTYPES.get(compute_dtype, x.dtype)
    key_heads, head_dim = cache_kv.shape[2], cache_kv.shape[4]
    heads = x.shape[1] // head_dim - 2 * key_heads
    x = x.cast("float32")
    x = x if qkv_out_scale is None else x * qkv_out_scale
    x = x if bias is None else x + bias.cast("float32")
    x = x.reshape([-1, heads + 2 * key_heads, 1, head_dim])
    rotated, value = x[:, : heads + key_heads], x[:, heads + key_heads :]
    if rotary_emb_dims:
        rotated = _rotated(rotated, rotary_tensor, use_neox_rotary_style)
    query, key = rotated[:, :heads], rotated[:, heads:]
    lengths = sequence_lengths.cast("int32").reshape([-1])
    _write_token(key, value, cache_kv, lengths)
    out = _attended(query.cast(dtype), cache_kv, src_mask, lengths)
    out = out.reshape([-1, heads * head_dim])
    out = (out.cast("float32") * (lengths > 0).cast("float32").unsqueeze(1)).cast(dtype)
    if out_scale <= 0:
        return out, cache_kv
    from paddlenlp_ops import quant_int8

    bounds = (float(quant_max_bound), float(quant_min_bound))
    rounding = int(quant_round_type)
    return quant_int8(out, out_shift, out_smooth, float(out_scale), rounding, *bounds), cache_kv


def _attended(query: Any, cache: Any, mask: Any, lengths: Any) -> Any:
    """Return the attention to the cache, ``[batch, heads, 1, head_dim]``."""
    heads, head_dim = query.shape[1], query.shape[3]
    end = paddle.max(lengths) + 1
    key, value = cache[0, :, :, :end], cache[1, :, :, :end]
    scores = _product(query, _repeated(key, heads), transpose=True, scale=head_dim**-0.5)
    if mask is not None:
        scores = scores + mask[:, :, :, :end].cast("float32")
    within = paddle.arange(end).cast("int32") <= lengths.reshape([-1, 1, 1, 1])
    return _mixed(scores, within, _repeated(value, heads), query.dtype)


def _write_token(key: Any, value: Any, cache: Any, lengths: Any) -> None:
    """Write one token's key and value, ``[batch, key heads, 1, head_dim]`` each, into a cache."""
    positions = paddle.arange(cache.shape[3]).cast("int32")
    here = (positions == lengths.unsqueeze(1)).unsqueeze([0, 2, 4])  # [1, batch, 1, positions, 1]
    new = paddle.stack([key, value]).cast(cache.dtype)
    paddle.assign(_chosen(here, new, cache), cache)


def _rotated(x: Any, rotary: Any, neox: bool) -> Any:
    """Rotate ``[batch, heads, 1, head_dim]`` by ``[2, batch, 1, 1, head_dim]``."""
    cosine, sine = rotary[0].cast("float32"), rotary[1].cast("float32")
    half = x.shape[3] // 2
    if neox:
        turned = paddle.concat([-x[..., half:], x[..., :half]], axis=-1)
    else:
        turned = paddle.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape([0, 0, 0, 2 * half])
    return x * cosine + turned * sine


def _mixed(scores: Any, within: Any, value: Any, dtype: Any) -> Any:
    """Return the values weighted by the softmax of unmasked scores."""
    scores = scores + (1 - within.cast("float32")) * _LOWEST
    weights = paddle.nn.functional.softmax(scores, axis=-1)
    return _product(weights, value).cast(dtype)


def _chosen(condition: Any, left: Any, right: Any) -> Any:
    """Return ``left`` where a condition holds, else ``right``, in the shape of ``right``."""
    dtype = right.dtype
    if _on_a_cpu():  # which has no float16 kernels here
        left, right = left.cast("float32"), right.cast("float32")
    # paddle.where broadcasts with sums, which takes several passes over a cache.
    return paddle.where(condition.expand_as(right), left.expand_as(right), right).cast(dtype)


def _on_a_cpu() -> bool:
    return bool(paddle.get_device().startswith("cpu"))


def _product(left: Any, right: Any, transpose: bool = False, scale: float = 1.0) -> Any:
    """Return a matrix product in float32; computed in float16 if the device supports it.

    Args:
        left: scaled before the product, because float16 sums are limited to 65504.
        right: its type is the one of the product on a device.
        transpose: whether ``right`` is transposed.
        scale: of ``left``.
    """
    left = left.cast("float32") * scale
    if _on_a_cpu():
        right = right.cast("float32")
    else:
        left = left.cast(right.dtype)
    return paddle.matmul(left, right, transpose_y=transpose).cast("float32")


def _repeated(x: Any, heads: int) -> Any:
    """Return keys or values of each query's head, ``[batch, heads, keys, head_dim]``."""
    group = heads // x.shape[1]
    if group == 1:
        return x
    # The CPU kernel for repeating does not support float16.
    dtype = x.dtype
    x = x.cast("float32") if _on_a_cpu() else x
    return paddle.repeat_interleave(x, group, axis=1).cast(dtype)

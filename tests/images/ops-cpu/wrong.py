"""Operators made wrong on purpose, to show that the comparison with the reference finds them."""

from __future__ import annotations

import paddle
import paddle.incubate.nn.functional as F
import paddlenlp_ops


def non_causal() -> None:
    """Block attention whose prompt sees later tokens too (Paddle#73254)."""
    right = F.block_multihead_attention

    def wrong(qkv, key_cache, value_cache, encoder, decoder, now, *arguments, **options):
        longest = int(now.max())
        if int(encoder.max()) > 0:
            options["mask"] = paddle.zeros([now.shape[0], 1, longest, longest])
        return right(qkv, key_cache, value_cache, encoder, decoder, now, *arguments, **options)

    F.block_multihead_attention = wrong


def empty_body() -> None:
    """Masked attention that is registered and does nothing, as in a ROCm build."""
    right = F.masked_multihead_attention

    def wrong(x, cache, **options):
        out, *others = right(x, cache.clone(), **options)
        return (paddle.zeros_like(out), *others)

    F.masked_multihead_attention = wrong


def off_by_one_block() -> None:
    """Block attention that decodes from the block after the right one."""
    right = F.block_multihead_attention

    def wrong(qkv, key_cache, value_cache, encoder, *arguments, **options):
        if int(encoder.max()) == 0:
            tables = arguments[6]
            arguments = (*arguments[:6], paddle.roll(tables, -1, 1), *arguments[7:])
        return right(qkv, key_cache, value_cache, encoder, *arguments, **options)

    F.block_multihead_attention = wrong


def wrong_rounding() -> None:
    """Quantization that rounds halves to even where they must go away from zero."""
    right = paddlenlp_ops.quant_int8

    def wrong(x, shift, smooth, scale, round_type, *bounds):
        return right(x, shift, smooth, scale, 0, *bounds)

    paddlenlp_ops.quant_int8 = wrong


def missing() -> None:
    """Block attention that no kernel is registered for."""

    def wrong(*_, **__):
        raise RuntimeError("(NotFound) The kernel `block_multihead_attention` is not registered.")

    F.block_multihead_attention = wrong

"""RMS normalization with a quantized result on a CPU, whose kernel lacks it."""

from __future__ import annotations

from typing import Any

from paddle.incubate.nn.functional import fused_rms_norm

__all__ = ["rms_norm"]


def rms_norm(
    x: Any,
    norm_weight: Any,
    norm_bias: Any,
    epsilon: float,
    begin_norm_axis: int,
    bias: Any = None,
    residual: Any = None,
    quant_scale: float = -1,
    quant_round_type: int = 0,
    quant_max_bound: float = 0,
    quant_min_bound: float = 0,
) -> Any:
    """Return the result of ``fused_rms_norm`` as on a GPU.

    Args:
        x: ``[tokens, hidden]``.
        norm_weight: ``[hidden]``.
        norm_bias: ``[hidden]``, or None.
        epsilon: added to the mean of squares.
        begin_norm_axis: the first axis to normalize.
        bias: added to ``x``, or None.
        residual: added to ``x``, or None; the sum is the second result.
        quant_scale: of the int8 result; not positive for an unquantized result.
        quant_round_type: 0 rounds half to even, 1 half away from zero.
        quant_max_bound: the largest integer.
        quant_min_bound: the smallest.
    """
    output = fused_rms_norm(
        x, norm_weight, norm_bias, epsilon, begin_norm_axis, bias=bias, residual=residual
    )
    if quant_scale <= 0:
        return output
    from paddlenlp_ops import quant_int8

    parts = list(output) if isinstance(output, (tuple, list)) else [output]
    parts[0] = quant_int8(
        parts[0],
        None,
        None,
        float(quant_scale),
        int(quant_round_type),
        float(quant_max_bound),
        float(quant_min_bound),
    )
    return parts if residual is not None else parts[0]

"""Int8 quantization of arrays.

Symmetric quantization as in Paddle's ``quantize_linear``: a scale is the largest absolute value
and corresponds to 127; values are rounded to the nearest integer, ties to even, and clipped to
-128 … 127. A weight is
``[inputs, outputs]`` and has a scale for each output (upstream's
``abs_max_channel_wise``); an activation has one scale; a cache has one for each head.

Smoothing follows SmoothQuant (arXiv:2211.10438, equation 4) with upstream's alpha of one half:
the input channel j of activations X is divided by

    s_j = max|X_j|^a / max|W_j|^(1-a)

and its row of the weights W is multiplied by it. This preserves the product and moves outliers
from activations, which have one scale, into weights, which have many.

Shifting follows Outlier Suppression+ (arXiv:2304.09145): the middle z of each channel is
subtracted, and z·W is added after the product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "ALPHA",
    "LARGEST",
    "dequantized",
    "fake_quantized",
    "quantized",
    "smoothing",
    "weight_scales",
]

LARGEST = 127
"""The integer that corresponds to a scale."""

ALPHA = 0.5
"""The share of an outlier that is moved into the weights; fixed in upstream's program."""

_LEAST = 1e-8  # upstream's scale for zeros
_LEAST_SMOOTHING = 1e-5  # likewise

Floats = npt.NDArray[np.float32]


def weight_scales(weight: Floats) -> Floats:
    """Return the scale of each output, ``[outputs]``.

    Args:
        weight: ``[inputs, outputs]``.
    """
    largest = np.abs(weight).max(axis=0)
    return np.where(largest == 0, np.float32(_LEAST), largest).astype(np.float32)


def quantized(values: Floats, scales: Any) -> npt.NDArray[np.int8]:
    """Return values as int8.

    Args:
        values: of any shape.
        scales: one for all, or an array that can be broadcast.
    """
    return _rounded(values, scales).astype(np.int8)


def dequantized(values: npt.NDArray[np.int8], scales: Any) -> Floats:
    """Return the floats of :func:`quantized` values."""
    steps = np.asarray(scales, dtype=np.float32) / np.float32(LARGEST)
    floats: Floats = values.astype(np.float32)
    floats *= steps
    return floats


def fake_quantized(values: Floats, scales: Any) -> Floats:
    """Return values after quantization and dequantization."""
    rounded = _rounded(values, scales)
    rounded *= np.asarray(scales, dtype=np.float32) / np.float32(LARGEST)
    return rounded


def smoothing(activations: Floats, weights: Floats, alpha: float = ALPHA) -> Floats:
    """Return the divisor of each input channel, ``[inputs]``.

    Args:
        activations: the largest absolute value of each channel, ``[inputs]``.
        weights: the same for its row in all weights with this input, ``[inputs]``.
        alpha: the share of an outlier that is moved into the weights, 0 to 1.
    """
    # A row of zeros would get an infinite factor, which would zero its channel.
    rows = np.maximum(weights, np.float32(_LEAST)) ** np.float32(1 - alpha)
    factors = activations ** np.float32(alpha) / rows
    return np.maximum(factors, np.float32(_LEAST_SMOOTHING)).astype(np.float32)


def _rounded(values: Floats, scales: Any) -> Floats:
    steps = np.float32(LARGEST) / np.asarray(scales, dtype=np.float32)
    rounded = np.rint(values * steps)
    return np.clip(rounded, -LARGEST - 1, LARGEST, out=rounded)

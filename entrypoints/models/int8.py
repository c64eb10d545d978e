"""What quantizing computes, on arrays alone.

Symmetric quantization to eight bits, as Paddle's ``quantize_linear`` has it: a scale is
the largest absolute value that can be told, and stands for 127; values are rounded to the
nearest, ties to even, and what lies outside is cut to -128 … 127. A weight is
``[inputs, outputs]`` and has a scale for each output (upstream's
``abs_max_channel_wise``); an activation has one scale; a cache has one for each head.

Smoothing is SmoothQuant's (arXiv:2211.10438, equation 4), with upstream's strength of
one half: an input channel j of activations X and weights W is divided by

    s_j = max|X_j|^a / max|W_j|^(1-a)

and its row of W multiplied, which changes no product and moves outliers of activations,
which one scale cannot tell apart, into weights, which have many.

Shifting is Outlier Suppression+'s (arXiv:2304.09145): a channel's middle z is taken away
from it, and z·W is added behind the product.
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
"""What a scale stands for."""

ALPHA = 0.5
"""How much of an outlier goes into the weights; upstream's program has no key for it."""

_LEAST = 1e-8  # upstream's scale of what is zero everywhere
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
    """Return values in eight bits.

    Args:
        values: of any shape.
        scales: one for all, or what can be stretched over them.
    """
    return _rounded(values, scales).astype(np.int8)


def dequantized(values: npt.NDArray[np.int8], scales: Any) -> Floats:
    """Return what :func:`quantized` values stand for."""
    steps = np.asarray(scales, dtype=np.float32) / np.float32(LARGEST)
    floats: Floats = values.astype(np.float32)
    floats *= steps
    return floats


def fake_quantized(values: Floats, scales: Any) -> Floats:
    """Return what values are after they have been in eight bits."""
    rounded = _rounded(values, scales)
    rounded *= np.asarray(scales, dtype=np.float32) / np.float32(LARGEST)
    return rounded


def smoothing(activations: Floats, weights: Floats, alpha: float = ALPHA) -> Floats:
    """Return what each input channel is divided by, ``[inputs]``.

    Args:
        activations: the largest absolute value of each channel, ``[inputs]``.
        weights: likewise of its row in all the weights that take it, ``[inputs]``.
        alpha: how much of an outlier goes into the weights, 0 to 1.
    """
    # A row of zeros takes any factor; one that is infinite would make its channel nothing.
    rows = np.maximum(weights, np.float32(_LEAST)) ** np.float32(1 - alpha)
    factors = activations ** np.float32(alpha) / rows
    return np.maximum(factors, np.float32(_LEAST_SMOOTHING)).astype(np.float32)


def _rounded(values: Floats, scales: Any) -> Floats:
    steps = np.float32(LARGEST) / np.asarray(scales, dtype=np.float32)
    rounded = np.rint(values * steps)
    return np.clip(rounded, -LARGEST - 1, LARGEST, out=rounded)

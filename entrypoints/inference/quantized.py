"""Quantized models: their scales, and their simulation on a CPU.

The layout is that of upstream's ``llm/utils/quant.py``, which its fused kernels read on a
device: int8 weights, ``weight_scales.json`` with a scale for each output, ``act_scales.json``
with one for the input of each product, and ``cachekv_scales.json`` with one for each head of
the cache, repeated for each query head of its group. A scale is the largest absolute value and
corresponds to 127. With shifting or smoothing of all linear layers, upstream wraps two layers,
whose names then contain ``.layer``.

Paddle's CPU wheel has no int8 products (``weight_only_linear``, ``llm_int8_linear`` and int8
``matmul`` lack a kernel), and converting a weight to float32 at each use takes 1.7 to 2.8 times
as long as a float32 product. Therefore weights are dequantized when a model is loaded, and
activations are rounded to int8 and back: the results are those of int8, the speed is float32's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.models.int8 import LARGEST
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.quantizing import ACTIVATIONS, CACHE
from paddle_stacks.jobs.workspace import WEIGHT_SCALES

__all__ = [
    "CACHES",
    "WRAPPED",
    "Rounding",
    "activation_scales",
    "extra_weights",
    "rounding_of",
    "upstream_name",
    "weight_scales",
]

WRAPPED = ("self_attn.o_proj", "mlp.down_proj")
"""The projections that upstream wraps, to shift and smooth their inputs."""

CACHES = ("self_attn.cachek_matmul", "self_attn.cachev_matmul")

_AGAIN = "quantize the model again: ./inv quantize --force"
_LISTED = 5

Floats = npt.NDArray[np.float32]


def upstream_name(name: str, *, wrapped: bool) -> str:
    """Return upstream's name of a projection, as ``llama.layers.0.mlp.down_proj``."""
    return f"{name}.layer" if wrapped and name.endswith(WRAPPED) else name


def weight_scales(folder: Path, weights: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    """Return the scales of the int8 weights, ``[outputs]`` each.

    Args:
        folder: the model's.
        weights: names and shapes of those weights, ``[inputs, outputs]``.

    Raises:
        RequestError: scales are missing or damaged.
    """
    path = folder / WEIGHT_SCALES
    stored = _read(path)
    scales_by_name: dict[str, Floats] = {}
    faults = []
    for name, shape in weights.items():
        layer = name.removesuffix(".weight")
        value = stored.get(f"{layer}.weight_quanter", stored.get(f"{layer}.layer.weight_quanter"))
        scales = _positive(value)
        if scales is None or scales.shape != shape[1:]:
            faults.append(f"{name} requires a scale for each of its {shape[-1]} outputs")
        else:
            scales_by_name[name] = scales
    _raise(faults, path)
    return scales_by_name


def rounding_of(folder: Path, layers: int, kv_heads: int) -> Rounding | None:
    """Return the rounding of activations and cache; None if they are not quantized.

    For the arguments see :func:`activation_scales`.

    Raises:
        RequestError: scales are damaged.
    """
    scales = activation_scales(folder, layers, kv_heads)
    return Rounding(scales) if scales else None


def activation_scales(folder: Path, layers: int, kv_heads: int) -> dict[str, Floats]:
    """Return the scales of int8 activations and caches, by the name of the product.

    Args:
        folder: the model's.
        layers: the number of layers.
        kv_heads: heads of keys and values.

    Returns:
        ``[]`` for an activation, ``[1, heads, 1, 1]`` for a cache.

    Raises:
        RequestError: scales are damaged.
    """
    scales: dict[str, Floats] = {}
    faults = []
    stored = _read(folder / ACTIVATIONS)
    for name, value in stored.items():
        values = _positive(value)
        if values is None or values.size != 1:
            faults.append(f"{name} is {str(value)[:40]}, expected one positive number")
        else:
            product = name.removesuffix(".activation_quanter").removesuffix(".layer")
            scales[product] = values.reshape(())
    _raise(faults, folder / ACTIVATIONS)
    stored = _read(folder / CACHE)
    products = [f"llama.layers.{layer}.{cache}" for layer in range(layers) for cache in CACHES]
    for product in products if stored else ():
        values = _positive(stored.get(f"{product}.activation_quanter"))
        if values is None or values.ndim != 1 or not values.size or values.size % kv_heads:
            faults.append(f"{product} requires a scale for each head")
        else:
            scales[product] = values[:: values.size // kv_heads].reshape(1, kv_heads, 1, 1)
    _raise(faults, folder / CACHE)
    return scales


def extra_weights(names: Mapping[str, Any]) -> dict[str, str]:
    """Return the weights that shifting and smoothing added, by the names of this project's network.

    Args:
        names: the checkpoint's weights.
    """
    kinds = (".bias", ".shift_bias", ".smooth_weight")
    return {
        name.replace(".layer.bias", ".bias"): name
        for name in names
        if name.startswith("llama.layers.") and name.endswith(kinds)
    }


class Rounding:
    """Rounds the inputs of products to int8 and back: a :data:`llama.Tap`.

    Args:
        scales: by the product's name: ``[]``, or ``[1, heads, 1, 1]`` for a cache.
    """

    def __init__(self, scales: Mapping[str, Floats]) -> None:
        import paddle

        self._scales = dict(scales)
        # Computed once instead of for every product of every token.
        self._steps = {
            name: paddle.to_tensor(scale / np.float32(LARGEST)) for name, scale in scales.items()
        }

    def __call__(self, name: str, tensor: Any) -> Any:
        """Return the rounded tensor; unchanged if there is no scale of that name."""
        import paddle

        step = self._steps.get(name)
        if step is None:
            return tensor
        return paddle.clip(paddle.round(tensor / step), -LARGEST - 1, LARGEST) * step


def _read(path: Path) -> dict[str, Any]:
    return json_files.read_object(path, message="the scales cannot be read", remedy=_AGAIN)


def _positive(value: Any) -> Floats | None:
    """Return positive numbers as an array; None if a value is not a finite number above zero."""
    try:
        numbers = np.array(value)
    except (ValueError, OverflowError):  # ragged lists, or huge integers
        return None
    if numbers.dtype.kind not in "iuf":
        return None
    with np.errstate(over="ignore"):
        numbers = numbers.astype(np.float32)
    return numbers if np.isfinite(numbers).all() and (numbers > 0).all() else None


def _raise(faults: list[str], path: Path) -> None:
    if faults:
        more = [f"and {len(faults) - _LISTED} more of the kind"] if len(faults) > _LISTED else []
        raise RequestError([Problem(fault, str(path), _AGAIN) for fault in faults[:_LISTED] + more])

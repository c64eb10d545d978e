"""Writing of quantized models in the layout of ``inference/quantized.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.inference.quantized import upstream_name
from entrypoints.inference.weights import Weights
from entrypoints.models import int8
from entrypoints.models.files import copy_companions, write_json
from entrypoints.models.llama import write_weights
from entrypoints.models.safetensors_file import Tensor, total_bytes
from entrypoints.quantizing.calibration import Scales, split
from paddle_stacks.jobs.llama_config import LlamaConfig
from paddle_stacks.jobs.quantizing import ACTIVATIONS, CACHE, GROUPS, Method
from paddle_stacks.jobs.workspace import WEIGHT_SCALES

__all__ = ["projections", "weight_scales", "write"]

Floats = npt.NDArray[np.float32]


def projections(config: LlamaConfig, method: Method) -> list[str]:
    """Return the names of quantized projections, in the order of the layers."""
    return [
        name
        for layer in range(config.num_hidden_layers)
        for members in GROUPS.values()
        for member in members
        if method.takes(name := f"llama.layers.{layer}.{member}")
    ]


def weight_scales(weights: Mapping[str, Floats], names: list[str]) -> dict[str, Floats]:
    """Return the scales of the weights of projections, by the names of the weights."""
    return {f"{name}.weight": int8.weight_scales(weights[f"{name}.weight"]) for name in names}


def write(
    folder: Path,
    source: Weights,
    weights: Mapping[str, Floats],
    by_name: Mapping[str, Floats],
    scales: Scales,
    method: Method,
    queries_per_kv_head: int,
) -> int:
    """Write a quantized model, and return the bytes of its weights.

    Args:
        folder: an existing empty folder.
        source: the weights of the original model.
        weights: by the names of this project's network, shifted and smoothed.
        by_name: scales of the quantized weights, by name.
        scales: of activations and cache.
        method: of the quantization.
        queries_per_kv_head: query heads that share a KV head.
    """
    copy_companions((source.folder,), folder)
    _write_config(source.folder, folder, method)
    tensors = _tensors(source, weights, by_name, method)
    write_weights(folder, tensors)
    named = {name.removesuffix(".weight"): scale for name, scale in by_name.items()}
    _write_scales(folder / WEIGHT_SCALES, _with_upstream_names(named, "weight_quanter", method))
    entering = {
        f"{layer}.{member}": scale
        for name, scale in scales.activations.items()
        for layer, first in [split(name)]
        for member in GROUPS[first]
    }
    _write_scales(
        folder / ACTIVATIONS, _with_upstream_names(entering, "activation_quanter", method)
    )
    # Upstream observes keys and values after repeating them for each query head, and its
    # reader uses every n-th scale.
    caches = {
        f"{name}.activation_quanter": np.repeat(scale, queries_per_kv_head)
        for name, scale in scales.caches.items()
    }
    _write_scales(folder / CACHE, caches)
    return total_bytes(tensors)


def _tensors(
    source: Weights, weights: Mapping[str, Floats], by_name: Mapping[str, Floats], method: Method
) -> list[Tensor]:
    tensors = []
    for name, values in weights.items():
        if name in by_name:
            tensors.append(_int8_tensor(name, values, by_name[name]))
        elif name in source and np.array_equal(values, source[name]):
            tensors.append(source.as_stored(name))
        else:
            # Upstream's reader expects the bias of one wrapped layer under the inner layer.
            stored = name.replace(".down_proj.bias", ".down_proj.layer.bias")
            tensors.append(Tensor(stored, "F32", values.shape, lambda values=values: values))  # type: ignore[misc]
    return tensors


def _int8_tensor(name: str, values: Floats, scale: Floats) -> Tensor:
    return Tensor(name, "I8", values.shape, lambda: int8.quantized(values, scale))


def _with_upstream_names(values: Mapping[str, Any], kind: str, method: Method) -> dict[str, Any]:
    return {f"{upstream_name(n, wrapped=method.all_linears)}.{kind}": v for n, v in values.items()}


def _write_scales(path: Path, values: Mapping[str, Any]) -> None:
    plain = {name: np.asarray(value).tolist() for name, value in values.items()}
    path.write_text(json.dumps(plain) + "\n", encoding="utf-8")


def _write_config(source: Path, folder: Path, method: Method) -> None:
    """Write ``config.json`` with the settings for upstream's reader."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_type": method.quant_type,
        "shift": method.shift,
        "smooth": method.smooth,
        "shift_smooth_all_linears": method.all_linears,
    }
    write_json(folder / "config.json", config)

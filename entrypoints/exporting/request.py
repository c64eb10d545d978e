"""Checks before Paddle is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files

__all__ = ["check_architecture"]


def check_architecture(folder: Path) -> None:
    """Check that a model can be exported as a static graph.

    Raises:
        RequestError: it is not a Llama, or has int8 activations.
    """
    path = folder / "config.json"
    config = json_files.read_object(path, message="not a model's configuration")
    names, quantization = config.get("architectures"), config.get("quantization_config") or {}
    if not isinstance(quantization, dict):
        message = f"quantization_config is {quantization!r:.40}, expected an object"
        raise RequestError(message, where=str(path), remedy="quantize the model again")
    if names != ["LlamaForCausalLM"]:
        shown = ", ".join(map(str, names)) if isinstance(names, list) else names
        raise RequestError(
            f'static graphs require LlamaForCausalLM, not "{shown}"',
            where=str(path),
            remedy="export without --static, which works for all fetched models",
        )
    folded = quantization.get("quant_type") in (None, "weight_only_int8")
    if not folded or quantization.get("shift") or quantization.get("shift_smooth_all_linears"):
        raise RequestError(
            "static graphs only support int8 weights, without shifting, and smoothing after norms "
            f"only; this model has {quantization}",
            where=str(path),
            remedy=f"./inv infer --engine dynamic --model {folder}, or ./inv serve --model "
            f"{folder}; on a card: ./inv export --backend dcu --recipe export-block-a8w8",
        )

"""Checks of what ``export`` is given, before Paddle is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files

__all__ = ["check_architecture"]


def check_architecture(folder: Path) -> None:
    """Refuse a model of which no static graph can be made.

    Raises:
        RequestError: it is no Llama, or one whose activations are in eight bits.
    """
    path = folder / "config.json"
    config = json_files.read_object(path, message="not a model's configuration")
    names, quantization = config.get("architectures"), config.get("quantization_config") or {}
    if not isinstance(quantization, dict):
        message = f"quantization_config is {quantization!r:.40}, and no object"
        raise RequestError(message, where=str(path), remedy="quantize the model again")
    if names != ["LlamaForCausalLM"]:
        shown = ", ".join(map(str, names)) if isinstance(names, list) else names
        raise RequestError(
            f'a static graph is made of LlamaForCausalLM, not of "{shown}"',
            where=str(path),
            remedy="export without --static: any model that was fetched can be merged and copied",
        )
    folded = quantization.get("quant_type") in (None, "weight_only_int8")
    if not folded or quantization.get("shift") or quantization.get("shift_smooth_all_linears"):
        raise RequestError(
            "a static graph has whole numbers in its weights alone, and is neither shifted nor "
            f"smoothed before other products than those behind norms; this is {quantization}",
            where=str(path),
            remedy=f"./inv infer --engine dynamic --model {folder}, or ./inv serve --model "
            f"{folder}; on a card: ./inv export --backend dcu --recipe export-block-a8w8",
        )

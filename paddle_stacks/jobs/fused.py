"""Reasons why upstream's inference programs cannot run, from public issues and from the model.

PaddleNLP's fused models (``--inference_model``) depend on operators that a ROCm build of
Paddle 3.0.0b2 does not have in full:

* Without block attention they need ``variable_length_memory_efficient_attention``, a CUTLASS
  kernel that is compiled for CUDA only (Paddle#59442), and ``masked_multihead_attention``,
  whose kernel has an empty body on ROCm. Before that, the import of ``paddlenlp_ops`` in
  ``fused_transformer_layers.py`` fails at ``gemm_dequant``, which ``csrc/setup_hip.py`` has not
  built since PaddleNLP#8909, and leaves the names after it undefined. Our patches compose both
  (``entrypoints/upstream_patches``); ``--unpatched`` programs are rejected.
* Block attention was ported (Paddle#65398, Paddle#66423): float16, without the products that
  ``weight_only_int8`` needs.

Temperature 0 (PaddleNLP#8830) fails on any device without the patches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import fused_models, models
from paddle_stacks.jobs.upstream import PREDICT, Options

__all__ = ["fitting_lengths", "problems"]

# The keys of config.json that create_predictor reads, in this order.
_POSITIONS = ("max_position_embeddings", "max_sequence_length", "seq_length")
# Upstream's defaults of --src_length and --max_length, in tokens.
_LENGTH = 1024
_LENGTHS = ("src_length", "max_length")
_BLOCK_RECIPE = "./inv infer --backend dcu --recipe infer-block-fp16"
_A8W8_RECIPE = "./inv infer --backend dcu --recipe infer-block-a8w8"


def problems(
    options: Options,
    workspace: Path,
    *,
    on_dcu: bool,
    gpu: bool = True,
    instead: str = "",
    patched: bool = True,
) -> list[Problem]:
    """Return the reasons why upstream's inference program cannot work with these options.

    Args:
        options: the options; those of other scripts have no problems here.
        workspace: where models are.
        on_dcu: whether it runs on a DCU or a simulated one.
        gpu: whether a DCU computes, and not the CPU of a simulated one.
        instead: the command of a recipe that works; empty if there is none.
        patched: whether the program runs with our patches.
    """
    if not options.script.endswith(PREDICT):
        return []
    config = _config(options, workspace)
    faults: list[Problem] = []
    if on_dcu and options.on("inference_model"):
        faults += _missing_kernels(options, config, gpu=gpu, instead=instead, patched=patched)
    if not patched and options.on("block_attn") and _is_zero(options.values.get("temperature")):
        message = "--temperature 0 with --block_attn divides by zero in upstream's sampling"
        remedy = "for the most likely token: --temperature 1.0 --top_p 0.01"
        faults.append(Problem(message, options.where("temperature"), remedy))
    return faults + _too_long(options, config, workspace, patched=patched)


def fitting_lengths(options: Options, workspace: Path) -> list[str]:
    """Return options for omitted lengths if upstream's defaults do not fit into the model.

    Args:
        options: the options.
        workspace: where models are.
    """
    missing = [key for key in _LENGTHS if key not in options.values]
    positions = _positions(options, _config(options, workspace), workspace)
    total = sum(options.number(key, _LENGTH) for key in _LENGTHS if key not in missing)
    left = positions - total
    if not missing or left < len(missing) or left >= len(missing) * _LENGTH:
        return []
    share = left // len(missing)
    return [word for key in missing for word in (f"--{key}", str(share))]


def _missing_kernels(
    options: Options, config: Mapping[str, Any], *, gpu: bool, instead: str, patched: bool
) -> list[Problem]:
    faults = []
    quantized = options.text("quant_type") or fused_models.quant_type(config)
    if quantized.startswith("weight_only"):
        message = f"quant_type {quantized} cannot run on a DCU: Paddle has no ROCm kernel for it"
        remedy = f"8 bits on a DCU are a8w8: {_A8W8_RECIPE}"
        faults.append(Problem(message, options.where("quant_type"), remedy))
    if not options.on("block_attn"):
        if patched:
            return faults
        message = (
            "--inference_model without --block_attn cannot run on a DCU: Paddle 3.0.0b2 has no "
            "ROCm kernel for variable_length_memory_efficient_attention, and its "
            "masked_multihead_attention computes nothing there"
        )
        remedy = instead or f"remove --unpatched, or add --block_attn, as {_BLOCK_RECIPE} does"
        return [*faults, Problem(message, options.where("inference_model"), remedy)]
    if gpu and options.text("dtype") == "float32":
        message = "--block_attn with float32 cannot run on a DCU: its kernels are for float16"
        faults.append(Problem(message, options.where("dtype"), "write --dtype float16"))
    return faults


def _too_long(
    options: Options, config: Mapping[str, Any], workspace: Path, *, patched: bool
) -> list[Problem]:
    keys = [key for key in _LENGTHS if key in options.values]
    if patched and fitting_lengths(options, workspace):
        return []
    source, target = (options.number(key, _LENGTH) for key in _LENGTHS)
    positions = _positions(options, config, workspace)
    if not positions or source + target <= positions:
        return []
    message = (
        f"--src_length {source} plus --max_length {target} is {source + target} tokens; the "
        f"model has {positions} positions"
    )
    half = positions // 2
    key = keys[0] if keys else "max_length"
    remedy = f"--src_length {positions - half} --max_length {half}"
    return [Problem(message, options.where(key), remedy)]


def _positions(options: Options, config: Mapping[str, Any], workspace: Path) -> int:
    """Return the number of positions of the model; 0 if it is unknown."""
    for key in _POSITIONS:
        if (value := config.get(key)) is not None:
            return value if type(value) is int and value > 0 else 0
    name = Path(str(options.values.get("model_name_or_path", ""))).name.lower()
    try:
        return models.find(name, workspace=workspace).context if name else 0
    except RequestError:
        return 0


def _config(options: Options, workspace: Path) -> dict[str, Any]:
    """Return the model's ``config.json``; empty if it cannot be read."""
    name = str(options.values.get("model_name_or_path", ""))
    try:
        config = json.loads((workspace / name / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if name and isinstance(config, dict) else {}


def _is_zero(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0

"""Checks that a checkpoint or a static graph matches the options of a fused model.

Another quantization, missing scales or a static graph of another kind would fail after minutes,
or compute wrong results.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.quantizing import ACTIVATIONS, CACHE
from paddle_stacks.jobs.upstream import Options
from paddle_stacks.jobs.workspace import WEIGHT_SCALES

__all__ = ["OURS", "PROGRAM", "problems", "quant_type"]

PROGRAM = "infer_model_program"
"""The key of an exported ``config.json`` that names the program which exported it."""
OURS = "paddle-stacks"

_GRAPHS = (".json", ".pdmodel")
_QUANTIZE = "quantize it: ./inv quantize --set quant_type={}"


def problems(options: Options, workspace: Path, *, ours: bool) -> list[Problem]:
    """Return the problems of a model; none if its folder does not exist.

    Args:
        options: the options of the run.
        workspace: the workspace.
        ours: whether :mod:`entrypoints.fused` runs it instead of upstream's program.
    """
    name = options.values.get("model_name_or_path")
    folder = workspace / str(name or "")
    if not name or not options.on("inference_model") or not (folder / "config.json").is_file():
        return []
    config = json_files.read_object(folder / "config.json")
    return _kind(options, folder, config) + _program_problems(options, folder, config, ours=ours)


def _kind(options: Options, folder: Path, config: Mapping[str, Any]) -> list[Problem]:
    if options.text("mode") == "static":
        return _static(options, folder, config)
    if any((folder / f"model{ending}").is_file() for ending in _GRAPHS):
        message = f"{folder} is a static graph, but --mode is dynamic"
        return [Problem(message, options.where("model_name_or_path"), "write --mode static")]
    return _quantization(options, folder, config) + _cache(options, folder, config)


def _program_problems(
    options: Options, folder: Path, config: Mapping[str, Any], *, ours: bool
) -> list[Problem]:
    """Return the problems of a model that only the other program can run."""
    path, where = folder / "config.json", options.where("model_name_or_path")
    if options.text("mode") == "static" and (config.get(PROGRAM) == OURS) != ours:
        message = (
            "the static graph was exported by another program, and returns its tokens differently"
        )
        return [Problem(message, str(path), "export it with this image: predict/export_model.py")]
    if not ours:
        return []
    faults = []
    if config.get("architectures") != ["LlamaForCausalLM"]:
        message = f"expected LlamaForCausalLM, got {config.get('architectures')}"
        faults.append(Problem(message, where, "upstream's program runs others: --backend dcu"))
    for key in ("rope_scaling", "rope_scaling_type"):
        if config.get(key):
            message = f'fused models ignore "{key}", which the model has'
            faults.append(Problem(message, str(path), "run it without --inference_model"))
    return faults


def quant_type(config: Mapping[str, Any]) -> str:
    """Return the quantization type of a checkpoint; empty if it is not quantized."""
    quantization = config.get("quantization_config")
    kind = quantization.get("quant_type") if isinstance(quantization, dict) else None
    return kind if isinstance(kind, str) else ""


def _quantization(options: Options, folder: Path, config: Mapping[str, Any]) -> list[Problem]:
    requested, actual = options.text("quant_type"), quant_type(config)
    where = options.where("quant_type") if requested else options.where("model_name_or_path")
    if requested.startswith("weight_only") and not actual:
        return []  # upstream quantizes the weights as it reads them
    if requested and requested.replace("c8", "") != actual.replace("c8", ""):
        kind = f"quantized as {actual}" if actual else "not quantized"
        remedy = f"write --quant_type {actual}" if actual else _QUANTIZE.format(requested)
        return [Problem(f"{folder} is {kind}, but --quant_type is {requested}", where, remedy)]
    if not actual.startswith("a8w8"):
        return [] if not actual else [_unsupported_quantization(folder, actual, where)]
    faults = []
    for name in (ACTIVATIONS, WEIGHT_SCALES):
        faults += _scales(folder / name, _QUANTIZE.format(actual))
    return faults


def _unsupported_quantization(folder: Path, kind: str, where: str) -> Problem:
    message = f"{folder} is quantized as {kind}, which fused models do not support"
    return Problem(message, where, f"./inv infer --model {folder.name}, or quantize it as a8w8")


def _cache(options: Options, folder: Path, config: Mapping[str, Any]) -> list[Problem]:
    requested, actual = options.text("cachekv_int8_type"), quant_type(config)
    where = options.where("cachekv_int8_type")
    if not requested:
        return _scales(folder / CACHE, _QUANTIZE.format("a8w8c8")) if "c8" in actual else []
    if not options.on("block_attn"):
        return [Problem("--cachekv_int8_type requires --block_attn", where, "add --block_attn")]
    if requested == "static" and "c8" not in actual:
        message = f"{folder} has no scales for an int8 KV cache, but --cachekv_int8_type is static"
        return [Problem(message, where, _QUANTIZE.format("a8w8c8") + ", or dynamic")]
    if requested == "dynamic" and "c8" in actual:
        message = f"{folder} has scales for its KV cache, but --cachekv_int8_type is dynamic"
        return [Problem(message, where, "write --cachekv_int8_type static")]
    return _scales(folder / CACHE, _QUANTIZE.format("a8w8c8")) if requested == "static" else []


def _scales(path: Path, remedy: str) -> list[Problem]:
    try:
        scales = json_files.read_object(path) if path.is_file() else {}
    except RequestError as error:
        return list(error.problems)
    return [] if scales else [Problem("the model's scales are missing", str(path), remedy)]


def _static(options: Options, folder: Path, config: Mapping[str, Any]) -> list[Problem]:
    prefix = str(options.values.get("model_prefix") or "model")
    graphs = [path for ending in _GRAPHS if (path := folder / f"{prefix}{ending}").is_file()]
    again = "export it with the same options: predict/export_model.py"
    if not graphs or not (folder / f"{prefix}.pdiparams").is_file():
        message = f"{folder} has no static graph, but --mode is static"
        return [Problem(message, options.where("mode"), again)]
    faults: list[Problem] = []
    has_blocks = _holds(graphs[0], b"block_tables")
    if has_blocks != options.on("block_attn"):
        kind = "with" if has_blocks else "without"
        remedy = f"{'add' if has_blocks else 'remove'} --block_attn, or {again}"
        message = f"the static graph was exported {kind} --block_attn"
        faults.append(Problem(message, str(graphs[0]), remedy))
    quantized, cached = quant_type(config), config.get("infer_model_cachekv_int8_type") or ""
    requested = options.text("quant_type")
    for name, got, expected in (
        ("dtype", config.get("infer_model_dtype"), options.text("dtype")),
        ("cachekv_int8_type", cached, options.text("cachekv_int8_type") or cached),
        ("quant_type", quantized.replace("c8", ""), (requested or quantized).replace("c8", "")),
    ):
        if got is not None and got != expected:
            message = f"the static graph was exported with {name} {got or 'none'}, not {expected}"
            faults.append(
                Problem(message, options.where(name), f"write --{name} {got}, or {again}")
            )
    return faults + _longer(options, config, again)


def _longer(options: Options, config: Mapping[str, Any], again: str) -> list[Problem]:
    """Return a problem if a graph's caches are too short."""
    positions = config.get("infer_model_max_seq_len")
    total = sum(options.number(key, 1024) for key in ("src_length", "max_length"))
    if not isinstance(positions, int) or total <= positions:
        return []
    message = f"the static graph has room for {positions} tokens; the lengths add up to {total}"
    return [Problem(message, options.where("max_length"), again)]


def _holds(path: Path, text: bytes) -> bool:
    with path.open("rb") as stream:
        if path.stat().st_size == 0:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text) >= 0

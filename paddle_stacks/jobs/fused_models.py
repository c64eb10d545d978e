"""Whether a checkpoint or a static graph is what a fused model's options take it for.

One of another quantization, scales that are missing and a static graph of another kind fail
after minutes, or compute something else.
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
"""The key of an exported ``config.json`` that says whose program made the graph."""
OURS = "paddle-stacks"

_GRAPHS = (".json", ".pdmodel")
_QUANTIZE = "quantize it: ./inv quantize --set quant_type={}"


def problems(options: Options, workspace: Path, *, ours: bool) -> list[Problem]:
    """Return what speaks against a model, as far as its folder is there.

    Args:
        options: of the run.
        workspace: where models are.
        ours: whether :mod:`entrypoints.fused` runs it, and not upstream's program.
    """
    name = options.values.get("model_name_or_path")
    folder = workspace / str(name or "")
    if not name or not options.on("inference_model") or not (folder / "config.json").is_file():
        return []
    config = json_files.read_object(folder / "config.json")
    return _kind(options, folder, config) + _of_another_program(options, folder, config, ours=ours)


def _kind(options: Options, folder: Path, config: Mapping[str, Any]) -> list[Problem]:
    if options.text("mode") == "static":
        return _static(options, folder, config)
    if any((folder / f"model{ending}").is_file() for ending in _GRAPHS):
        what = f"{folder} is a static graph, and --mode is dynamic"
        return [Problem(what, options.where("model_name_or_path"), "write --mode static")]
    return _quantization(options, folder, config) + _cache(options, folder, config)


def _of_another_program(
    options: Options, folder: Path, config: Mapping[str, Any], *, ours: bool
) -> list[Problem]:
    """Return what speaks against a model that only one of the two programs runs."""
    path, where = folder / "config.json", options.where("model_name_or_path")
    if options.text("mode") == "static" and (config.get(PROGRAM) == OURS) != ours:
        what = "the static graph was exported by another program, and returns its tokens elsewhere"
        return [Problem(what, str(path), "export it with this image: predict/export_model.py")]
    if not ours:
        return []
    faults = []
    if config.get("architectures") != ["LlamaForCausalLM"]:
        what = f"only LlamaForCausalLM is run here, not {config.get('architectures')}"
        faults.append(Problem(what, where, "upstream's program runs others: --backend dcu"))
    for key in ("rope_scaling", "rope_scaling_type"):
        if config.get(key):
            what = f'fused models ignore "{key}", which the model has'
            faults.append(Problem(what, str(path), "run it without --inference_model"))
    return faults


def quant_type(config: Mapping[str, Any]) -> str:
    """Return how a checkpoint is quantized; empty where it is not."""
    quantization = config.get("quantization_config")
    kind = quantization.get("quant_type") if isinstance(quantization, dict) else None
    return kind if isinstance(kind, str) else ""


def _quantization(options: Options, folder: Path, config: Mapping[str, Any]) -> list[Problem]:
    asked, found = options.text("quant_type"), quant_type(config)
    where = options.where("quant_type") if asked else options.where("model_name_or_path")
    if asked.startswith("weight_only") and not found:
        return []  # upstream quantizes the weights as it reads them
    if asked and asked.replace("c8", "") != found.replace("c8", ""):
        kind = f"quantized as {found}" if found else "not quantized"
        remedy = f"write --quant_type {found}" if found else _QUANTIZE.format(asked)
        return [Problem(f"{folder} is {kind}, and --quant_type is {asked}", where, remedy)]
    if not found.startswith("a8w8"):
        return [] if not found else [_of_another_reader(folder, found, where)]
    faults = []
    for name in (ACTIVATIONS, WEIGHT_SCALES):
        faults += _scales(folder / name, _QUANTIZE.format(found))
    return faults


def _of_another_reader(folder: Path, found: str, where: str) -> Problem:
    what = f"{folder} is quantized as {found}, which fused models do not read"
    return Problem(what, where, f"./inv infer --model {folder.name} reads it; or a8w8 for these")


def _cache(options: Options, folder: Path, config: Mapping[str, Any]) -> list[Problem]:
    asked, found = options.text("cachekv_int8_type"), quant_type(config)
    where = options.where("cachekv_int8_type")
    if not asked:
        return _scales(folder / CACHE, _QUANTIZE.format("a8w8c8")) if "c8" in found else []
    if not options.on("block_attn"):
        return [Problem("--cachekv_int8_type needs --block_attn", where, "add --block_attn")]
    if asked == "static" and "c8" not in found:
        what = f"{folder} has no scales for a cache in int8, and --cachekv_int8_type is static"
        return [Problem(what, where, _QUANTIZE.format("a8w8c8") + ", or dynamic")]
    if asked == "dynamic" and "c8" in found:
        what = f"{folder} has scales for its cache, and --cachekv_int8_type is dynamic"
        return [Problem(what, where, "write --cachekv_int8_type static")]
    return _scales(folder / CACHE, _QUANTIZE.format("a8w8c8")) if asked == "static" else []


def _scales(path: Path, remedy: str) -> list[Problem]:
    try:
        found = json_files.read_object(path) if path.is_file() else {}
    except RequestError as error:
        return list(error.problems)
    return [] if found else [Problem("the model's scales are missing", str(path), remedy)]


def _static(options: Options, folder: Path, config: Mapping[str, Any]) -> list[Problem]:
    prefix = str(options.values.get("model_prefix") or "model")
    graphs = [path for ending in _GRAPHS if (path := folder / f"{prefix}{ending}").is_file()]
    again = "export it with the same options: predict/export_model.py"
    if not graphs or not (folder / f"{prefix}.pdiparams").is_file():
        what = f"{folder} has no static graph, and --mode is static"
        return [Problem(what, options.where("mode"), again)]
    faults: list[Problem] = []
    has_blocks = _holds(graphs[0], b"block_tables")
    if has_blocks != options.on("block_attn"):
        kind = "with" if has_blocks else "without"
        remedy = f"{'add' if has_blocks else 'leave out'} --block_attn, or {again}"
        what = f"the static graph was exported {kind} --block_attn"
        faults.append(Problem(what, str(graphs[0]), remedy))
    quantized, cached = quant_type(config), config.get("infer_model_cachekv_int8_type") or ""
    asked = options.text("quant_type")
    for name, got, wanted in (
        ("dtype", config.get("infer_model_dtype"), options.text("dtype")),
        ("cachekv_int8_type", cached, options.text("cachekv_int8_type") or cached),
        ("quant_type", quantized.replace("c8", ""), (asked or quantized).replace("c8", "")),
    ):
        if got is not None and got != wanted:
            what = f"the static graph was exported with {name} {got or 'none'}, not {wanted}"
            faults.append(Problem(what, options.where(name), f"write --{name} {got}, or {again}"))
    return faults + _longer(options, config, again)


def _longer(options: Options, config: Mapping[str, Any], again: str) -> list[Problem]:
    """Return a problem where a graph's caches are too short."""
    positions = config.get("infer_model_max_seq_len")
    asked = sum(options.number(key, 1024) for key in ("src_length", "max_length"))
    if not isinstance(positions, int) or asked <= positions:
        return []
    what = f"the static graph holds {positions} tokens, and the lengths are {asked}"
    return [Problem(what, options.where("max_length"), again)]


def _holds(path: Path, text: bytes) -> bool:
    with path.open("rb") as stream:
        if path.stat().st_size == 0:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text) >= 0

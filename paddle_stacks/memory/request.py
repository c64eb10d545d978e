"""Build a memory request from options and a job's configuration with upstream's keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.dcu import cards
from paddle_stacks.errors import Problem, RequestError, did_you_mean, suggest
from paddle_stacks.jobs.layout import Layout, problems
from paddle_stacks.jobs.llama_config import LlamaConfig
from paddle_stacks.jobs.schema.reading import read
from paddle_stacks.jobs.upstream import Options, layout_faults
from paddle_stacks.memory.estimate import GRANULARITIES, Plan, Workload, plan
from paddle_stacks.memory.layouts import parse
from paddle_stacks.memory.search import Candidate, nearest, search
from paddle_stacks.memory.shapes import find

__all__ = ["CHOICES", "NUMBERS", "OPTIONS", "Request", "check", "make", "ranked"]

OPTIONS = {
    "model": "a known model, a folder in models/, or the path of a config.json",
    "config": "a job's JSON with upstream's keys; options override it",
    "cards": "number of cards (default: as many as the layout needs)",
    "layout": "degrees of dp, tp, pp, vpp, sharding, stage, sp: tp=2,pp=4; the rest is dp",
    "card": "card type, from configs/dcu/cards.toml (default: K100_AI)",
    "dtype": "number format (default: float16)",
    "level": "mixed-precision level (default: O2)",
    "method": "what the job does (default: lora)",
    "rank": "LoRA rank (default: 8)",
    "batch": "sequences per micro-batch (default: 1)",
    "sequence": "tokens per sequence (default: 4096)",
    "micro-batches": "micro-batches per step: gradient_accumulation_steps (default: 1)",
    "recompute": "activations to recompute in the backward pass (default: none)",
    "flash": "use flash attention, which stores no score matrix",
    "block-attn": "inference with a cache of blocks, as upstream's --block_attn",
    "weights": "number format of the layers' matrices in inference (default: the dtype)",
    "cache": "number format of the KV cache in inference (default: the dtype)",
}
"""The options of a memory request with their help texts."""

CHOICES = {
    "dtype": ("float32", "float16", "bfloat16"),
    "level": ("O1", "O2"),
    "method": ("lora", "full", "inference"),
    "recompute": GRANULARITIES,
    "weights": ("a8w8",),
    "cache": ("int8",),
}
"""The valid values of an option with a fixed set of values."""
NUMBERS = {"rank": 2**16, "batch": 2**20, "sequence": 2**24, "micro-batches": 2**20}
"""The maximum of each integer option."""
_COUNTS = ("tensor_parallel_degree", "pipeline_parallel_degree", "virtual_pp_degree")
_CONFIG_KEYS = {  # upstream's key and default
    "batch": ("per_device_train_batch_size", 8),
    "sequence": ("max_length", 2048),
    "micro-batches": ("gradient_accumulation_steps", 1),
    "rank": ("lora_rank", 8),
}
_MIB = 2**20


@dataclass(frozen=True)
class Request:
    """The input of a memory estimate.

    Args:
        model: the model's architecture.
        work: the workload.
        layout: the parallel layout.
        card: name of the card type.
        memory: bytes per card.
    """

    model: LlamaConfig
    work: Workload
    layout: Layout
    card: str
    memory: int


def make(arguments: Mapping[str, str], workspace: Path = Path()) -> Request:
    """Build a request from options.

    Args:
        arguments: the options that were set, by name (:data:`OPTIONS`).
        workspace: folder that relative paths start from.

    Raises:
        RequestError: invalid options or configuration. Reports as many problems at once as
            possible.
    """
    faults: list[Problem] = []
    for name in arguments:
        if name not in OPTIONS:
            message = f'unknown option "{name}"'
            faults.append(
                Problem(
                    message,
                    f"--{name}",
                    did_you_mean(name, OPTIONS) or f"options: {', '.join(OPTIONS)}",
                )
            )
    options = _options(arguments.get("config"), workspace, faults)
    values = {**_from_config(options, faults), **arguments}
    faults += _inference_faults(values)
    for name, choices in CHOICES.items():
        if name in arguments and arguments[name] not in choices:
            message = f'"{arguments[name]}" is not a valid {name}'
            remedy = suggest(arguments[name], choices, "choices")
            faults.append(Problem(message, f"--{name}", remedy))
    numbers = {name: _number(values, name, top, faults) for name, top in NUMBERS.items()}
    name = values.get("model", "")
    if not name:
        faults.append(
            Problem("a model is required", "--model", "--model llama-2-13b, or --config FILE")
        )
    card_name = arguments.get("card", "K100_AI")
    card = cards.find(card_name)
    if card is None or card.memory_mib is None:
        with_memory = [each for each, kind in cards.card_types().items() if kind.memory_mib]
        message = f"the memory of {card_name} is unknown"
        if card is None:
            message = f'unknown card type "{card_name}"'
        faults.append(Problem(message, "--card", suggest(card_name, with_memory, "cards")))
    if faults or card is None or card.memory_mib is None:
        raise RequestError(faults)
    work = Workload(
        method=values.get("method", "lora"),
        dtype=values.get("dtype", "float16"),
        level=values.get("level", "O2"),
        master_gradients=options.on("amp_master_grad"),
        rank=numbers["rank"] or 8,
        batch=numbers["batch"] or 1,
        sequence=numbers["sequence"] or 4096,
        micro_batches=numbers["micro-batches"] or 1,
        recompute=values.get("recompute", "none"),
        flash="flash" in arguments or options.on("use_flash_attention"),
        fused_norm=options.on("use_fused_rms_norm"),
        fused_rope=options.on("use_fused_rope"),
        int8_weights=values.get("weights") == "a8w8",
        int8_cache=values.get("cache") == "int8",
        blocks="block-attn" in arguments,
    )
    layout = _layout(values, options)
    return Request(find(name, workspace), work, layout, card.name, card.memory_mib * _MIB)


def check(request: Request) -> tuple[tuple[Plan, ...], Problem | None]:
    """Return the plan of every stage, and a problem if it exceeds the card's memory.

    Raises:
        RequestError: the layout cannot divide the model; names the nearest that can.
    """
    faults = problems(request.model, request.layout, request.work.micro_batches)
    if faults:
        message = "the model cannot be divided like this"
        faults.append(Problem(message, f"--layout {request.layout}", _advice(request)))
        raise RequestError(faults)
    plans = plan(request.model, request.work, request.layout)
    worst = max(plans, key=lambda each: each.size)
    if worst.size <= request.memory:
        return plans, None
    message = (
        f"{request.model.name} needs {worst.size / 2**30:.1f} GiB per card in stage "
        f"{worst.stage}; {request.card} has {request.memory / 2**30:.1f} GiB"
    )
    return plans, Problem(message, f"--layout {request.layout}", _advice(request))


def ranked(request: Request) -> tuple[Candidate, ...]:
    """Return all layouts for the request's number of cards, best first."""
    return search(request.model, request.work, request.layout.world, request.memory)


def _inference_faults(values: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each option of inference that does not go with the others."""
    if values.get("method") != "inference":
        return [
            Problem(f"--{name} is an option of inference", f"--{name}", "add --method inference")
            for name in ("block-attn", "weights", "cache")
            if name in values
        ]
    faults = []
    if values.get("cache") == "int8" and "block-attn" not in values:
        message = "an int8 cache exists with block attention only"
        faults.append(Problem(message, "--cache", "add --block-attn"))
    if values.get("dtype", "float16") == "float32" and {"weights", "block-attn"} & set(values):
        message = "a8w8 and block attention compute in half precision"
        faults.append(Problem(message, "--dtype", "--dtype float16"))
    return faults


def _advice(request: Request) -> str:
    """Return the nearest layouts that fit, on as many cards or the fewest more."""
    for count in (request.layout.world, *(2**n for n in range(11))):
        if count < request.layout.world:
            continue
        candidates = search(request.model, request.work, count, request.memory)
        near = nearest(candidates, request.layout)
        if near:
            shown = "; ".join(f"{c.layout} ({c.size / 2**30:.1f} GiB)" for c in near)
            return f"nearest layouts that fit on {count} card{'s' if count > 1 else ''}: {shown}"
    return (
        "nothing fits on 1024 cards: shorten --sequence, or use --recompute full or --method lora"
    )


def _options(config: str | None, workspace: Path, faults: list[Problem]) -> Options:
    if not config:
        return Options("memory")
    path = workspace / config
    document = read(path)
    faults += document.problems
    places = {key: document.where(key) for key in document.values}
    return Options(config, document.values, path, places)


def _from_config(options: Options, faults: list[Problem]) -> dict[str, str]:
    """Return the options that a job's configuration sets."""
    if options.config is None:
        return {}
    values = {"model": str(options.values.get("model_name_or_path") or "")}
    for name, (key, default) in _CONFIG_KEYS.items():
        if name == "sequence" and "max_seq_length" in options.values:
            key = "max_seq_length"
        value = options.values.get(key, default)
        if type(value) is not int or value < 1:
            message = f'"{key}" must be an integer of at least 1, got {value!r}'
            faults.append(Problem(message, options.where(key), f'"{key}": 1'))
        else:
            values[name] = str(value)
    for key in (*_COUNTS, "sharding_parallel_degree"):
        value = options.values.get(key, 1)
        low = -1 if key == "sharding_parallel_degree" else 1
        if type(value) is not int or value < low:
            message = f'"{key}" must be an integer of at least 1, got {value!r}'
            faults.append(Problem(message, options.where(key), f'"{key}": 1'))
    for key in ("sep_parallel_degree", "context_parallel_degree"):
        if options.number(key, 1) > 1:
            message = f'the memory estimate does not support "{key}"'
            faults.append(Problem(message, options.where(key), "set it to 1 to estimate the rest"))
    if "offload" in options.text("sharding"):
        message = "the memory estimate does not support offloading"
        remedy = 'remove "offload" to estimate the rest'
        faults.append(Problem(message, options.where("sharding"), remedy))
    if options.on("fp16") and options.on("bf16"):
        faults.append(
            Problem(
                '"fp16" and "bf16" exclude each other',
                options.where("bf16"),
                "set one of them to false",
            )
        )
    values["dtype"] = (
        "float16" if options.on("fp16") else "bfloat16" if options.on("bf16") else "float32"
    )
    values["level"] = "O2" if options.text("fp16_opt_level") == "o2" else "O1"
    values["method"] = "lora" if options.on("lora") else "full"
    granularity = str(options.values.get("recompute_granularity") or "full")
    if granularity not in GRANULARITIES:
        message = f'unknown "recompute_granularity": "{granularity}"'
        remedy = did_you_mean(granularity, GRANULARITIES) or "full, full_attn or core_attn"
        faults.append(Problem(message, options.where("recompute_granularity"), remedy))
    values["recompute"] = granularity if options.on("recompute") else "none"
    return values


def _layout(values: Mapping[str, str], options: Options) -> Layout:
    text = values.get("layout")
    if text is None and options.config is not None:
        count = _cards(values, Layout.of(options, 1).least)
        if faults := layout_faults(options, count):
            raise RequestError(faults)
        return Layout.of(options, count)
    text = text or ""
    minimum = 1
    for part in text.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        if name in ("dp", "tp", "pp", "sharding") and value.isdecimal() and len(value) < 6:
            minimum *= int(value)
    return parse(text, _cards(values, max(1, minimum)))


def _cards(values: Mapping[str, str], default: int) -> int:
    text = values.get("cards", str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 7):
        raise RequestError(
            f'expected a number of cards, got "{text}"', where="--cards", remedy="--cards 8"
        )
    return int(text)


def _number(values: Mapping[str, str], name: str, maximum: int, faults: list[Problem]) -> int:
    text = values.get(name, "")
    if not text:
        return 0
    if text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= maximum:
        return int(text)
    message = f'expected an integer from 1 to {maximum}, got "{text}"'
    faults.append(Problem(message, f"--{name}", f"--{name} 1"))
    return 0

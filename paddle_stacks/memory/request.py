"""What a memory plan is asked for: a job's configuration with upstream's keys, and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.dcu import cards
from paddle_stacks.errors import Problem, RequestError, did_you_mean, suggest
from paddle_stacks.jobs.architecture import Architecture
from paddle_stacks.jobs.layout import Layout, problems
from paddle_stacks.jobs.schema.reading import read
from paddle_stacks.jobs.upstream import Options, layout_faults
from paddle_stacks.memory.estimate import GRANULARITIES, Plan, Work, plan
from paddle_stacks.memory.layouts import parse
from paddle_stacks.memory.search import Candidate, nearest, search
from paddle_stacks.memory.shapes import find

__all__ = ["CHOICES", "NUMBERS", "OPTIONS", "Request", "check", "make", "ranked"]

OPTIONS = {
    "model": "a known model, a folder in models/, or the path of a config.json",
    "config": "a job's JSON with upstream's keys; options win over it",
    "cards": "how many cards (default: as many as the layout takes)",
    "layout": "degrees of dp, tp, pp, vpp, sharding, stage, sp: tp=2,pp=4; the rest is dp",
    "card": "the kind of card, from configs/dcu/cards.toml (default: K100_AI)",
    "dtype": "number format (default: float16)",
    "level": "of mixed precision (default: O2)",
    "method": "what the job does (default: lora)",
    "rank": "of LoRA (default: 8)",
    "batch": "rows of a micro-batch (default: 1)",
    "sequence": "tokens of a row (default: 4096)",
    "micro-batches": "of a step: gradient_accumulation_steps (default: 1)",
    "recompute": "what the backward pass computes again (default: none)",
    "flash": "flash attention: no score matrix is kept",
}
"""The options of a plan, and what each is."""

CHOICES = {
    "dtype": ("float32", "float16", "bfloat16"),
    "level": ("O1", "O2"),
    "method": ("lora", "full", "inference"),
    "recompute": GRANULARITIES,
}
"""The values of an option that has only a few."""
NUMBERS = {"rank": 2**16, "batch": 2**20, "sequence": 2**24, "micro-batches": 2**20}
"""The largest value of each option that is a whole number."""
_COUNTS = ("tensor_parallel_degree", "pipeline_parallel_degree", "virtual_pp_degree")
_READ = {  # upstream's names
    "batch": ("per_device_train_batch_size", 8),
    "sequence": ("max_length", 2048),
    "micro-batches": ("gradient_accumulation_steps", 1),
    "rank": ("lora_rank", 8),
}
_MIB = 2**20


@dataclass(frozen=True)
class Request:
    """What is planned.

    Args:
        model: its shape.
        work: what is computed.
        layout: how it is spread.
        card: on what.
        memory: bytes of a card.
    """

    model: Architecture
    work: Work
    layout: Layout
    card: str
    memory: int


def make(given: Mapping[str, str], workspace: Path = Path()) -> Request:
    """Return what is asked for.

    Args:
        given: options by name (:data:`OPTIONS`), those that were written.
        workspace: where relative paths begin.

    Raises:
        RequestError: it is wrong; as many faults at once as can be told apart.
    """
    told: list[Problem] = []
    for name in given:
        if name not in OPTIONS:
            what = f'a memory plan has no option "{name}"'
            told.append(
                Problem(
                    what,
                    f"--{name}",
                    did_you_mean(name, OPTIONS) or f"options: {', '.join(OPTIONS)}",
                )
            )
    found = _options(given.get("config"), workspace, told)
    values = {**_from_config(found, told), **given}
    for name, choices in CHOICES.items():
        if name in given and given[name] not in choices:
            remedy = suggest(given[name], choices, "choices")
            told.append(Problem(f'"{given[name]}" is no {name}', f"--{name}", remedy))
    numbers = {name: _number(values, name, top, told) for name, top in NUMBERS.items()}
    name = values.get("model", "")
    if not name:
        what = "which model is not said"
        told.append(Problem(what, "--model", "--model llama-2-13b, or --config JSON"))
    wanted = given.get("card", "K100_AI")
    card = cards.find(wanted)
    if card is None or card.memory_mib is None:
        known = [each for each, kind in cards.card_types().items() if kind.memory_mib]
        what = f'no card "{wanted}"' if card is None else f"nobody says what memory a {wanted} has"
        told.append(Problem(what, "--card", suggest(wanted, known, "cards")))
    elif card.supports(values.get("dtype", "float16")) is False:
        what = f"a {card.name} does not have {values.get('dtype')}"
        told.append(Problem(what, "--dtype", "use float16"))
    if told or card is None or card.memory_mib is None:
        raise RequestError(told)
    work = Work(
        method=values.get("method", "lora"),
        dtype=values.get("dtype", "float16"),
        level=values.get("level", "O2"),
        master_gradients=found.on("amp_master_grad"),
        rank=numbers["rank"] or 8,
        batch=numbers["batch"] or 1,
        sequence=numbers["sequence"] or 4096,
        micro_batches=numbers["micro-batches"] or 1,
        recompute=values.get("recompute", "none"),
        flash="flash" in given or found.on("use_flash_attention"),
        fused_norm=found.on("use_fused_rms_norm"),
        fused_rope=found.on("use_fused_rope"),
    )
    layout = _layout(values, found)
    return Request(find(name, workspace), work, layout, card.name, card.memory_mib * _MIB)


def check(request: Request) -> tuple[tuple[Plan, ...], Problem | None]:
    """Return the plan of every stage, and why it cannot be held; None where it can.

    Raises:
        RequestError: the model cannot be divided so; with the nearest layouts that can.
    """
    told = problems(request.model, request.layout, request.work.micro_batches)
    if told:
        told.append(Problem("no such layout", str(request.layout), _instead(request)))
        raise RequestError(told)
    plans = plan(request.model, request.work, request.layout)
    worst = max(plans, key=lambda each: each.size)
    if worst.size <= request.memory:
        return plans, None
    what = (
        f"{request.model.name} needs {worst.size / 2**30:.1f} GiB on a card of stage "
        f"{worst.stage}, and a {request.card} has {request.memory / 2**30:.1f} GiB"
    )
    return plans, Problem(what, f"--layout {request.layout}", _instead(request))


def ranked(request: Request) -> tuple[Candidate, ...]:
    """Return every layout of the request's number of cards, the best first."""
    return search(request.model, request.work, request.layout.world, request.memory)


def _instead(request: Request) -> str:
    """Return the nearest layouts that fit, with as many cards or with the fewest that do."""
    for cards_ in (request.layout.world, *(2**n for n in range(11))):
        if cards_ < request.layout.world:
            continue
        found = search(request.model, request.work, cards_, request.memory)
        near = nearest(found, request.layout)
        if near:
            shown = "; ".join(f"{c.layout} ({c.size / 2**30:.1f} GiB)" for c in near)
            many = "card" if cards_ == 1 else "cards"
            return f"nearest that fit on {cards_} {many}: {shown}"
    return "nothing fits on 1024 cards: a shorter sequence, --recompute full, or --method lora"


def _options(config: str | None, workspace: Path, told: list[Problem]) -> Options:
    if not config:
        return Options("memory")
    path = workspace / config
    document = read(path)
    told += document.problems
    places = {key: document.where(key) for key in document.values}
    return Options(config, document.values, path, places)


def _from_config(found: Options, told: list[Problem]) -> dict[str, str]:
    """Return the options that a job's configuration stands for."""
    if found.config is None:
        return {}
    values = {"model": str(found.values.get("model_name_or_path") or "")}
    for name, (key, default) in _READ.items():
        if name == "sequence" and "max_seq_length" in found.values:
            key = "max_seq_length"
        value = found.values.get(key, default)
        if type(value) is not int or value < 1:
            what = f'"{key}" is {value!r}, not a whole number from 1'
            told.append(Problem(what, found.where(key), "write a whole number, without quotes"))
        else:
            values[name] = str(value)
    for key in (*_COUNTS, "sharding_parallel_degree"):
        value = found.values.get(key, 1)
        low = -1 if key == "sharding_parallel_degree" else 1
        if type(value) is not int or value < low:
            what = f'"{key}" is {value!r}, not a whole number from 1'
            told.append(Problem(what, found.where(key), "write a whole number, without quotes"))
    for key in ("sep_parallel_degree", "context_parallel_degree"):
        if found.number(key, 1) > 1:
            what = f'"{key}" is not in the plan\'s formulas'
            told.append(Problem(what, found.where(key), "set it to 1 to plan the rest"))
    if "offload" in found.text("sharding"):
        what = "what is offloaded to the host is not in the plan's formulas"
        told.append(Problem(what, found.where("sharding"), 'remove "offload" to plan the rest'))
    if found.on("fp16") and found.on("bf16"):
        told.append(
            Problem(
                '"fp16" and "bf16" exclude each other',
                found.where("bf16"),
                "set one of them to false",
            )
        )
    values["dtype"] = (
        "float16" if found.on("fp16") else "bfloat16" if found.on("bf16") else "float32"
    )
    values["level"] = "O2" if found.text("fp16_opt_level") == "o2" else "O1"
    values["method"] = "lora" if found.on("lora") else "full"
    granularity = str(found.values.get("recompute_granularity") or "full")
    if granularity not in GRANULARITIES:
        what = f'"recompute_granularity" is "{granularity}"'
        remedy = did_you_mean(granularity, GRANULARITIES) or "full, full_attn or core_attn"
        told.append(Problem(what, found.where("recompute_granularity"), remedy))
    values["recompute"] = granularity if found.on("recompute") else "none"
    return values


def _layout(values: Mapping[str, str], found: Options) -> Layout:
    text = values.get("layout")
    if text is None and found.config is not None:
        cards_ = _cards(values, Layout.of(found, 1).least)
        if told := layout_faults(found, cards_):
            raise RequestError(told)
        return Layout.of(found, cards_)
    text = text or ""
    least = 1
    for part in text.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        if name in ("dp", "tp", "pp", "sharding") and value.isdecimal() and len(value) < 6:
            least *= int(value)
    return parse(text, _cards(values, max(1, least)))


def _cards(values: Mapping[str, str], default: int) -> int:
    text = values.get("cards", str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 7):
        raise RequestError(
            f'"{text}" is not a number of cards', where="--cards", remedy="1 or more"
        )
    return int(text)


def _number(values: Mapping[str, str], name: str, top: int, told: list[Problem]) -> int:
    text = values.get(name, "")
    if not text:
        return 0
    if text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= top:
        return int(text)
    told.append(Problem(f'"{text}" is not a whole number', f"--{name}", f"1 to {top}"))
    return 0

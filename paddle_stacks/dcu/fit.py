"""Whether what is asked for can work on the cards: number formats, memory, how many, operators."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paddle_stacks.dcu import smi
from paddle_stacks.dcu.cards import CardType, find
from paddle_stacks.errors import MachineError, Problem, RequestError
from paddle_stacks.jobs import models
from paddle_stacks.jobs.architecture import from_config
from paddle_stacks.jobs.layout import Layout
from paddle_stacks.jobs.upstream import Options, wants_bf16
from paddle_stacks.memory.states import states

__all__ = [
    "ASSUMED",
    "Cards",
    "architecture_problems",
    "bytes_per_card",
    "look",
    "parameters",
    "problems",
]

ASSUMED = "K100_AI"
"""The card of the platform's instructions, where there is none to be looked at."""

_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True)
class Cards:
    """The cards that a job can use.

    Args:
        types: of the kinds that are known, each once.
        count: how many there are; None where nobody could look.
        memory_mib: of the smallest; None where it is not known.
    """

    types: tuple[CardType, ...]
    count: int | None = None
    memory_mib: int | None = None

    @property
    def names(self) -> str:
        """What the cards are called."""
        return " or ".join(each.name for each in self.types) or "card of this host"


def look(root: Path, picked: Sequence[int] = ()) -> Cards:
    """Return the cards of a host, or one of the usual kind where there is none to look at.

    Args:
        root: the folder that the host's paths are below.
        picked: the cards that a job is to use; none for all.
    """
    try:
        found = smi.read(root)
    except MachineError:
        found = ()
    chosen = [card for card in found if not picked or card.index in picked]
    kinds = [find(card.name) for card in chosen if card.name] or [find(ASSUMED)]
    types = tuple(dict.fromkeys(kind for kind in kinds if kind))
    sizes = [card.vram_total_mib for card in chosen if card.vram_total_mib]
    sizes = sizes or [kind.memory_mib for kind in types if kind.memory_mib]
    return Cards(types, len(chosen) if found else None, min(sizes, default=None))


def problems(
    found: Options,
    cards: Cards,
    *,
    per_node: int,
    nodes: int = 1,
    training: bool,
    workspace: Path,
    remedy: str = "",
) -> list[Problem]:
    """Return what cannot work on the cards.

    Args:
        found: what is asked for, by upstream's names.
        cards: what it is to run on.
        per_node: processes on this machine, one on each card.
        nodes: machines.
        training: whether weights are trained, and not just used.
        workspace: where models are.
        remedy: what to do where the memory does not suffice.
    """
    told: list[Problem] = []
    lacking = [kind.name for kind in cards.types if kind.supports("bf16") is False]
    if (key := wants_bf16(found)) and lacking:
        what = f'"{key}" asks for bfloat16, which a {lacking[0]} does not have'
        right = '"bf16" false and "fp16" true' if key == "bf16" else "--dtype float16"
        told.append(Problem(what, found.where(key), f"use float16: {right}"))
    if cards.count is not None and cards.count < per_node:
        what = f"{_cards(per_node)} needed, and there are {cards.count} to use"
        told.append(Problem(what, "--devices", "use a machine with more, or a smaller layout"))
    layout = Layout.of(found, per_node * nodes)
    size = parameters(str(found.values.get("model_name_or_path", "")), workspace)
    need = bytes_per_card(found, size, layout, training=training)
    have = (cards.memory_mib or 0) * _MIB
    if size and have and need > have:
        told.append(_too_small(found, size, need, have, layout, cards, remedy, training=training))
    return told


def bytes_per_card(found: Options, size: int, layout: Layout, *, training: bool) -> int:
    """Return the memory that each card needs at least: what activations take comes on top.

    Args:
        found: what is asked for.
        size: parameters of the model.
        layout: how it is spread.
        training: whether weights are trained.
    """
    half = found.text("fp16_opt_level") == "o2" and (found.on("fp16") or found.on("bf16"))
    half = half or found.text("dtype") in ("float16", "bfloat16")
    held = states(half=half, master_gradients=found.on("amp_master_grad"))
    if not training and found.text("quant_type").startswith("a8w8") and not found.on("do_ptq"):
        held = replace(held, weight=1)
    each = held.on_each(layout, trained=training and not found.on("lora"))
    return round(size * each / (layout.tensor * layout.pipeline))


def parameters(model: str, workspace: Path) -> int:
    """Return how many weights a model has; 0 where that is not known.

    Args:
        model: a name or a path; upstream's name of it does too.
        workspace: where ``models/`` is.
    """
    name = Path(model).name.lower()
    if not name:
        return 0
    try:
        return models.find(name, workspace=workspace).parameters
    except RequestError:
        pass
    for folder in (workspace / model, workspace / "models" / model):
        try:
            values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            given = {key: value for key, value in values.items() if value is not None}
            # What another kind of model has besides comes on top: it is a lower bound.
            return from_config({**given, "model_type": "llama"}, name).parameters
        except (OSError, ValueError, AttributeError, RequestError):
            continue
    # What was made of a known model: llama-2-13b-chat-a8w8.
    near = [row for row in models.known(workspace) if name.startswith(f"{row}-")]
    return models.find(max(near, key=len), workspace=workspace).parameters if near else 0


def architecture_problems(label: str, cards: Cards, image: str) -> list[Problem]:
    """Return the cards that an image's operators have no code for.

    Args:
        label: the architectures, separated by commas or semicolons; empty: it does not say.
        cards: what a job is to run on.
        image: its name.
    """
    compiled = [part.strip() for part in label.replace(";", ",").split(",") if part.strip()]
    if not compiled:
        return []
    return [
        Problem(
            f"the operators in {image} have no code for {kind.architecture}, which a "
            f"{kind.name} is: they are for {', '.join(compiled)}",
            image,
            f'add "{kind.architecture}" to "architectures" in configs/backends/, then ./inv build',
        )
        for kind in cards.types
        if kind.architecture not in compiled
    ]


def _too_small(
    found: Options,
    size: int,
    need: int,
    have: int,
    layout: Layout,
    cards: Cards,
    remedy: str,
    *,
    training: bool,
) -> Problem:
    lora = found.on("lora")
    method = ("LoRA on" if lora else "full training of") if training else "holding"
    model = Path(str(found.values["model_name_or_path"])).name
    what = (
        f"{method} {model} needs {need / _GIB:.1f} GiB on {_each(layout.world)}, "
        f"activations not counted ({size / 1e9:.1f} billion parameters, "
        f"{need * layout.tensor * layout.pipeline / size:.3g} bytes for each"
        f"{_spread(layout)}), and a {cards.names} has {have / _GIB:.1f} GiB"
    )
    usual = "split it over more cards: tensor_parallel_degree, pipeline_parallel_degree, sharding"
    usual = f'"lora": true, or {usual}' if training and not lora else usual
    return Problem(what, found.where("model_name_or_path"), remedy or usual)


def _each(world: int) -> str:
    return "one card" if world == 1 else f"each of {world} cards"


def _spread(layout: Layout) -> str:
    parts = layout.tensor * layout.pipeline
    return f", in {parts} parts" if parts > 1 else ""


def _cards(count: int) -> str:
    return "1 card" if count == 1 else f"{count} cards"

"""Checks of a job against the devices: number formats, memory, count, operators."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paddle_stacks.dcu import smi, wheels
from paddle_stacks.dcu.cards import CardType, find
from paddle_stacks.errors import MachineError, Problem, RequestError
from paddle_stacks.jobs import models
from paddle_stacks.jobs.layout import Layout
from paddle_stacks.jobs.llama_config import from_config
from paddle_stacks.jobs.upstream import Options, wants_bf16
from paddle_stacks.memory.states import states

__all__ = [
    "DEFAULT_CARD",
    "Devices",
    "architecture_problems",
    "bytes_per_device",
    "detect",
    "parameters",
    "problems",
]

DEFAULT_CARD = "K100_AI"
"""The card of upstream's instructions; assumed where no card can be detected."""

_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True)
class Devices:
    """The devices that a job can use.

    Args:
        types: their known card types, each once.
        count: number of devices; None if they could not be detected.
        memory_mib: memory of the smallest device; None if unknown.
    """

    types: tuple[CardType, ...]
    count: int | None = None
    memory_mib: int | None = None

    @property
    def names(self) -> str:
        """The names of the card types, for a message."""
        return " or ".join(each.name for each in self.types) or "card of this host"


def detect(root: Path, indices: Sequence[int] = ()) -> Devices:
    """Return the devices of a host; :data:`DEFAULT_CARD` if none can be detected.

    Args:
        root: the folder that the host's paths are below.
        indices: the devices that a job uses; empty for all.
    """
    try:
        cards = smi.read(root)
    except MachineError:
        cards = ()
    selected = [card for card in cards if not indices or card.index in indices]
    kinds = [find(card.name) for card in selected if card.name] or [find(DEFAULT_CARD)]
    types = tuple(dict.fromkeys(kind for kind in kinds if kind))
    sizes = [card.vram_total_mib for card in selected if card.vram_total_mib]
    sizes = sizes or [kind.memory_mib for kind in types if kind.memory_mib]
    return Devices(types, len(selected) if cards else None, min(sizes, default=None))


def problems(
    options: Options,
    devices: Devices,
    *,
    per_node: int,
    nodes: int = 1,
    training: bool,
    workspace: Path,
    remedy: str = "",
    allow_bf16: bool = False,
) -> list[Problem]:
    """Return the reasons why a job cannot run on the devices.

    Args:
        options: the job's options, by upstream's names.
        devices: the devices that it runs on.
        per_node: processes on this machine, one per device.
        nodes: number of machines.
        training: whether the job trains weights.
        workspace: the folder that contains ``models/``.
        remedy: advice for a job that needs too much memory; empty for the default.
        allow_bf16: skip the check for bfloat16.
    """
    faults: list[Problem] = []
    wheel = wheels.current()
    key = "" if allow_bf16 else wants_bf16(options)
    if key and wheel and "bf16" in wheel.no_dtypes:
        faults.append(_no_bf16(options, key, wheel, devices))
    if training and (algorithm := options.text("weight_quantize_algo")) not in ("", "none"):
        message = f'"weight_quantize_algo" {algorithm} cannot run on a DCU: no ROCm kernel'
        advice = 'set "weight_quantize_algo" to null: LoRA on float16 weights'
        faults.append(Problem(message, options.where("weight_quantize_algo"), advice))
    if options.on("flash_mask"):
        message = '"flash_mask" cannot run on a DCU: flash attention with sparse masks has no '
        message += "ROCm kernel"
        faults.append(Problem(message, options.where("flash_mask"), 'set "flash_mask" to false'))
    if devices.count is not None and devices.count < per_node:
        available = "1 is" if devices.count == 1 else f"{devices.count} are"
        message = f"the job needs {_count(per_node)}; {available} available"
        advice = "use a machine with more devices, or a smaller layout"
        faults.append(Problem(message, "--devices", advice))
    layout = Layout.of(options, per_node * nodes)
    size = parameters(str(options.values.get("model_name_or_path", "")), workspace)
    need = bytes_per_device(options, size, layout, training=training)
    have = (devices.memory_mib or 0) * _MIB
    if size and have and need > have:
        faults.append(
            _too_small(options, size, need, have, layout, devices, remedy, training=training)
        )
    return faults


def bytes_per_device(options: Options, size: int, layout: Layout, *, training: bool) -> int:
    """Return the memory that each device needs for the model's states, without activations.

    Args:
        options: the job's options.
        size: number of the model's parameters.
        layout: the parallel layout.
        training: whether the job trains weights.
    """
    half = options.text("fp16_opt_level") == "o2" and (options.on("fp16") or options.on("bf16"))
    half = half or options.text("dtype") in ("float16", "bfloat16")
    sizes = states(half=half, master_gradients=options.on("amp_master_grad"))
    if not training and options.text("quant_type").startswith("a8w8") and not options.on("do_ptq"):
        sizes = replace(sizes, weight=1)
    each = sizes.per_rank(layout, trained=training and not options.on("lora"))
    return round(size * each / (layout.tensor * layout.pipeline))


def parameters(model: str, workspace: Path) -> int:
    """Return the number of a model's parameters; 0 if unknown.

    Args:
        model: a name, a path, or upstream's name of the model.
        workspace: the folder that contains ``models/``.
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
            config = {key: value for key, value in values.items() if value is not None}
            # For other model types this is a lower bound: they may have further weights.
            return from_config({**config, "model_type": "llama"}, name).parameters
        except (OSError, ValueError, AttributeError, RequestError):
            continue
    # A model derived from a known one: llama-2-13b-chat-a8w8.
    bases = [row for row in models.known(workspace) if name.startswith(f"{row}-")]
    return models.find(max(bases, key=len), workspace=workspace).parameters if bases else 0


def architecture_problems(label: str, devices: Devices, image: str) -> list[Problem]:
    """Return a problem for each card type that an image's operators are not compiled for.

    Args:
        label: the image's architectures, separated by commas or semicolons; empty if unknown.
        devices: the devices that the job runs on.
        image: the image's name.
    """
    compiled = [part.strip() for part in label.replace(";", ",").split(",") if part.strip()]
    if not compiled:
        return []
    return [
        Problem(
            f"the operators in {image} are not compiled for {kind.architecture} ({kind.name}), "
            f"only for {', '.join(compiled)}",
            image,
            f'add "{kind.architecture}" to "architectures" in configs/backends/, then ./inv build',
        )
        for kind in devices.types
        if kind.architecture not in compiled
    ]


def _no_bf16(options: Options, key: str, wheel: wheels.Wheel, devices: Devices) -> Problem:
    message = f'"{key}" requires bfloat16, which the DCU kernels of Paddle {wheel.version} lack'
    able = [kind.name for kind in devices.types if "bf16" in kind.dtypes]
    if able:
        message += f"; {able[0]} has it, and others trained in it with a newer Paddle"
    setting = '"bf16": false, "fp16": true' if key == "bf16" else "--dtype float16"
    remedy = f"use float16: {setting}; to try bfloat16 anyway: --allow-bf16"
    return Problem(message, options.where(key), remedy)


def _too_small(
    options: Options,
    size: int,
    need: int,
    have: int,
    layout: Layout,
    devices: Devices,
    remedy: str,
    *,
    training: bool,
) -> Problem:
    lora = options.on("lora")
    method = ("LoRA on" if lora else "full fine-tuning of") if training else "inference with"
    model = Path(str(options.values["model_name_or_path"])).name
    message = (
        f"{method} {model} needs {need / _GIB:.1f} GiB on {_each(layout.world)}, "
        f"activations not counted ({size / 1e9:.1f} billion parameters, "
        f"{need * layout.tensor * layout.pipeline / size:.3g} bytes each"
        f"{_split(layout)}); {devices.names} has {have / _GIB:.1f} GiB"
    )
    default_remedy = (
        "split it over more devices: tensor_parallel_degree, pipeline_parallel_degree, sharding"
    )
    default_remedy = (
        f'"lora": true, or {default_remedy}' if training and not lora else default_remedy
    )
    return Problem(message, options.where("model_name_or_path"), remedy or default_remedy)


def _each(world: int) -> str:
    return "one device" if world == 1 else f"each of {world} devices"


def _split(layout: Layout) -> str:
    parts = layout.tensor * layout.pipeline
    return f", split {parts} ways" if parts > 1 else ""


def _count(devices: int) -> str:
    return "1 device" if devices == 1 else f"{devices} devices"

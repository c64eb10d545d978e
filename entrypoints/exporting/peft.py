"""A LoRA adapter of PaddleNLP as Hugging Face's PEFT reads it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.models import peft_adapter, safetensors_file
from entrypoints.models.files import write_json
from entrypoints.models.safetensors_file import Tensor
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.workspace import PEFT_CONFIG

__all__ = ["check", "write"]

_CONFIG = "lora_config.json"
_STATE = "adapter_model.safetensors"
_FACTOR = re.compile(r"(?P<layer>llama\.layers\.\d+\.[\w.]+)\.lora_(?P<factor>[AB])")
_MERGE = "merge it instead: export --adapter RUN --format huggingface"


def check(adapter: Path) -> None:
    """Check that PEFT has adapters of the kind.

    Raises:
        RequestError: it has not; every fault is named.
    """
    if peft_adapter.is_peft(adapter):
        return
    path = adapter / _CONFIG
    config = json_files.read_object(path)
    reasons = {
        "lora_use_mixer": "PEFT has no matrix between the factors (lora_use_mixer)",
        "pissa": "the adapter belongs to changed weights of its base model (pissa)",
        "nola": "PEFT has no such adapters (nola)",
    }
    problems = [
        Problem(reason, str(path), _MERGE) for key, reason in reasons.items() if config.get(key)
    ]
    if config.get("trainable_bias") or config.get("trainable_modules"):
        problems.append(Problem("more than LoRA factors was trained", str(path), _MERGE))
    if problems:
        raise RequestError(problems)


def write(adapter: Path, folder: Path, base: str) -> None:
    """Write an adapter into a folder, which exists.

    Args:
        adapter: PaddleNLP's or PEFT's; the latter is copied.
        folder: of PEFT's adapter.
        base: the name of the base model on Hugging Face's hub, or a folder.

    Raises:
        RequestError: the adapter is damaged.
    """
    if peft_adapter.is_peft(adapter):
        for name in (PEFT_CONFIG, _STATE):
            shutil.copyfile(adapter / name, folder / name)
        return
    from entrypoints.training.adapter import adapter_weights

    config = json_files.read_object(adapter / _CONFIG)
    state = {name: _floats(value) for name, value in adapter_weights(adapter).items()}
    tensors, modules, faults = [], set(), []
    for name, values in sorted(state.items()):
        match = _FACTOR.fullmatch(name)
        if match is None or values.ndim != 2:
            faults.append(f"{name} is not a LoRA factor")
            continue
        layer = match["layer"].replace("llama.", "model.", 1)
        modules.add(layer.rpartition(".")[2])
        renamed = f"base_model.model.{layer}.lora_{match['factor']}.weight"
        tensors.append(Tensor(renamed, "F32", values.shape[::-1], _transposed(values)))
    if faults or not tensors:
        problems = [Problem(fault, str(adapter), _MERGE) for fault in faults[:20]]
        raise RequestError(problems or [Problem("there are no factors", str(adapter), _MERGE)])
    safetensors_file.write(folder / _STATE, tensors, framework="pt")
    write_json(
        folder / PEFT_CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": config["r"],
            "lora_alpha": config["lora_alpha"],
            "lora_dropout": config.get("lora_dropout", 0.0),
            "use_rslora": bool(config.get("rslora")),
            "target_modules": sorted(modules),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
        },
    )


def _transposed(values: npt.NDArray[np.float32]) -> Any:
    return lambda: np.ascontiguousarray(values.T)


def _floats(value: Any) -> npt.NDArray[np.float32]:
    """Return a factor's values; Paddle pickles a tensor with its name, and bfloat16 as uint16."""
    array = np.asarray(value[1] if isinstance(value, tuple) else value)
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)

"""Conversion of LoRA adapters of Hugging Face's PEFT to PaddleNLP's names and layout.

PEFT has ``adapter_config.json`` and ``adapter_model.safetensors``, with the factors A
``[r, inputs]`` and B ``[outputs, r]`` of each linear layer; PaddleNLP has both transposed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.models import safetensors_file
from entrypoints.models.source_keys import KeyRule, unknown_keys, unsupported_values
from entrypoints.runtime.console import warn
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.workspace import PEFT_CONFIG

__all__ = ["KEYS", "LoraSettings", "is_peft", "read_settings", "read_state", "write_paddle"]

_STATE = "adapter_model.safetensors"
_NAME = re.compile(
    r"base_model\.model\.(?P<layer>(?:model\.)?[\w.]+?)\.lora_(?P<factor>[AB])(?:\.default)?\.weight"
)
_REMEDY = "merge it where it was trained (merge_and_unload), and fetch the result as a model"
_LISTED = 5

_USED = KeyRule(used=True)
_UNSUPPORTED = "adapters of this kind are not supported"


def _only(*accepted: Any, reason: str = _UNSUPPORTED) -> KeyRule:
    return KeyRule(accepted=accepted, reason=reason)


def _harmless(reason: str) -> KeyRule:
    return KeyRule(reason=reason)


KEYS: Mapping[str, KeyRule] = {
    **dict.fromkeys(("r", "lora_alpha", "use_rslora", "target_modules"), _USED),
    "peft_type": _only("LORA"),
    "task_type": _only("CAUSAL_LM"),
    "bias": _only("none", reason="biases of the model would be replaced"),
    "lora_bias": _only(False, reason="the layers have no biases"),
    "fan_in_fan_out": _only(False, reason="the factors would be transposed"),
    "modules_to_save": _only([], reason="whole layers of the model would be replaced"),
    "rank_pattern": _only({}, reason="ranks that differ between layers are not supported"),
    "alpha_pattern": _only({}, reason="scales that differ between layers are not supported"),
    "layer_replication": _only([], reason="the model would have more layers"),
    "init_lora_weights": _only(
        *(True, False, "gaussian", "eva", "orthogonal"),
        reason="the initialization changes the weights of the base model",
    ),
    **dict.fromkeys(
        ("use_dora", "use_qalora", "use_bdlora", "ensure_weight_tying"),
        _only(False),
    ),
    **dict.fromkeys(
        (
            *("target_parameters", "trainable_token_indices", "alora_invocation_tokens"),
            *("arrow_config", "corda_config", "kasa_config", "lora_ga_config", "loftq_config"),
            *("monteclora_config", "velora_config"),
        ),
        _only({}, []),
    ),
    **dict.fromkeys(
        ("layers_to_transform", "layers_pattern", "exclude_modules"),
        _harmless("the weights in the file determine the adapted layers"),
    ),
    **dict.fromkeys(
        ("lora_dropout", "eva_config", "qalora_group_size", "inference_mode", "runtime_config"),
        _harmless("only affects training"),
    ),
    **dict.fromkeys(
        (
            *("base_model_name_or_path", "revision", "auto_mapping", "peft_version"),
            *("megatron_config", "megatron_core"),
        ),
        _harmless("only records where the adapter was trained"),
    ),
}
"""The keys of ``adapter_config.json``, as of PEFT 0.21."""


@dataclass(frozen=True)
class LoraSettings:
    """The settings of an adapter.

    Args:
        rank: of the factors.
        alpha: the numerator of the scale.
        rslora: whether the scale's denominator is the rank's square root.
    """

    rank: int
    alpha: float
    rslora: bool

    @property
    def scaling(self) -> float:
        """The factor for the product of A and B."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def is_peft(folder: Path) -> bool:
    """Return whether a folder is an adapter of PEFT."""
    return (folder / PEFT_CONFIG).is_file()


def read_settings(folder: Path) -> LoraSettings:
    """Return the settings of an adapter, and warn about unknown keys.

    Raises:
        RequestError: it is not a plain LoRA adapter.
    """
    path = folder / PEFT_CONFIG
    config = json_files.read_object(path, message="not an adapter's configuration", remedy=_REMEDY)
    problems = [
        Problem(problem.what, problem.where, _REMEDY)
        for problem in unsupported_values(config, KEYS, str(path))
    ]
    if config.get("peft_type") is None:
        problems.append(Problem('"peft_type" is missing', str(path), _REMEDY))
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha", 8)  # PEFT's default
    if type(rank) is not int or not 0 < rank < 2**16:
        problems.append(
            Problem(f"r is {rank!r:.40}, expected a positive integer", str(path), _REMEDY)
        )
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        problems.append(
            Problem(f"lora_alpha is {alpha!r:.40}, expected a number", str(path), _REMEDY)
        )
    if problems:
        raise RequestError(problems)
    if unknown := unknown_keys(config, KEYS):
        names = ", ".join(key[:60] for key in unknown[:20])
        warn(f"{PEFT_CONFIG} has unknown keys, which are ignored: {names}")
    return LoraSettings(rank, alpha, bool(config.get("use_rslora")))


def read_state(folder: Path, rank: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return the factors of an adapter with PaddleNLP's names and layout.

    Args:
        folder: the adapter.
        rank: in its configuration.

    Raises:
        RequestError: the file is missing, damaged, or not an adapter.
    """
    path = folder / _STATE
    if not path.is_file():
        raise RequestError(
            f"the adapter has no weights: {_STATE} is missing",
            where=str(folder),
            remedy="weights as adapter_model.bin are pickles and are not read; save the adapter"
            " with safe_serialization=True",
        )
    state: dict[str, npt.NDArray[np.float32]] = {}
    faults = []
    header = safetensors_file.read_header(path)
    with safetensors_file.opened(path) as read:
        for name, entry in header.items():
            match = _NAME.fullmatch(name)
            if match is None:
                faults.append(f"{name} is not a LoRA factor of a linear layer")
                continue
            axis = 0 if match["factor"] == "A" else 1
            if len(entry.shape) != 2 or entry.shape[axis] != rank:
                faults.append(
                    f"{name} has the shape {list(entry.shape)}, which contradicts r = {rank}"
                )
                continue
            if entry.dtype not in ("F32", "F16", "BF16"):
                faults.append(f"{name} has the unsupported type {entry.dtype}")
                continue
            layer = re.sub(r"^model\.", "llama.", match["layer"])
            values = _as_float32(read(entry), entry.dtype)
            state[f"{layer}.lora_{match['factor']}"] = np.ascontiguousarray(values.T)
    if not state and not faults:
        faults.append("the file has no LoRA factors")
    if faults:
        raise RequestError([Problem(fault, str(path), _REMEDY) for fault in faults[:_LISTED]])
    return state


def _paddle_config(settings: LoraSettings, state: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Return the contents of PaddleNLP's ``lora_config.json`` for an adapter.

    Args:
        settings: of the adapter.
        state: its factors, by PaddleNLP's names.
        base: the base model.
    """
    kinds = sorted({name.split(".")[-2] for name in state})
    return {
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "rslora": settings.rslora,
        "target_modules": [f".*{kind}" for kind in kinds],
        "base_model_name_or_path": base,
    }


def write_paddle(folder: Path, output: Path, base: str) -> None:
    """Write an adapter in PaddleNLP's format.

    Args:
        folder: PEFT's.
        output: an existing folder for PaddleNLP's two files.
        base: the base model.

    Raises:
        RequestError: the adapter is damaged or not a plain LoRA adapter.
    """
    import paddle

    settings = read_settings(folder)
    state = read_state(folder, settings.rank)
    text = json.dumps(_paddle_config(settings, state, base), indent=2)
    (output / "lora_config.json").write_text(text + "\n", encoding="utf-8")
    paddle.save(state, str(output / "lora_model_state.pdparams"))


def _as_float32(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """Return the values of a tensor that was read as integers of the same size."""
    if dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.view(np.float16 if dtype == "F16" else np.float32).astype(np.float32)

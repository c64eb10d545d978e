"""Merging of LoRA adapters (arXiv:2106.09685) into a base model's weights.

PaddleNLP writes ``lora_config.json`` and ``lora_model_state.pdparams``: for a
linear layer's weight W ``[inputs, outputs]`` the factors A ``[inputs, r]`` and
B ``[r, outputs]``. W + A·B·scaling is equivalent to the unmerged model and costs nothing per
token. Adapters of Hugging Face's PEFT are converted to the same form
(:mod:`entrypoints.models.peft_adapter`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.models import peft_adapter
from entrypoints.models.files import BASE, fingerprint
from paddle_stacks.errors import Problem, RequestError, StackError
from paddle_stacks.jobs import json_files, pickles

__all__ = ["Adapter", "check_base"]

_CONFIG, _STATE = "lora_config.json", "lora_model_state.pdparams"
_FACTORS = (".lora_A", ".lora_B", ".lora_AB")
_PARAMETER_NAMES = "StructuredToParameterName@@"  # which paddle.save adds
_LISTED = 5


def check_base(folder: Path, model: Path, *, trust_name: bool = True) -> None:
    """Check that an adapter was trained on this model.

    Adapters from elsewhere do not record their base model: then the shapes are compared when
    the adapter is loaded.

    Args:
        folder: the adapter's.
        model: the model's folder.
        trust_name: whether to accept a model of the same name; otherwise its weights are
            compared, which takes seconds.

    Raises:
        RequestError: the weights are not the same.
    """
    path = folder / BASE
    if not path.is_file():
        return
    try:
        base = json_files.read_object(path, message="the adapter's base model is not recorded")
        name, expected = Path(base["model"]).name, base["weights_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        fault = f"the adapter's base model is not recorded: {type(error).__name__}: {error}"
        raise RequestError(
            fault,
            where=str(path),
            remedy="train the adapter again, or copy the complete folder of the run",
        ) from None
    if not (trust_name and name == model.name) and fingerprint(model) != expected:
        raise RequestError(
            f"the adapter was trained on {name}, but the weights of {model} differ",
            where=str(folder),
            remedy=f"use --model {name}",
        )


class Adapter:
    """The changes that an adapter makes to a model's weights.

    Args:
        folder: with ``lora_config.json`` and ``lora_model_state.pdparams``, or with
            PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``.
        shapes: the base model's weights and their shapes.

    Raises:
        RequestError: files are missing or damaged, it is not a plain LoRA
            adapter, or it does not fit the base model.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.folder = folder
        if peft_adapter.is_peft(folder):
            settings = peft_adapter.read_settings(folder)
            self._scaling = np.float32(settings.scaling)
            self._state = peft_adapter.read_state(folder, settings.rank)
        else:
            self._scaling = _scaling(folder)
            self._state = _state(folder)
        _check_fit(folder, self._state, shapes)

    def factors(self) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Return each layer's A ``[inputs, r]`` and B ``[r, outputs]``, the scaling in B.

        Raises:
            RequestError: the adapter has more than that: layers that were trained as they are.
        """
        factors = {}
        for name, values in self._state.items():
            if not name.endswith(_FACTORS):
                raise RequestError(
                    f"the adapter replaces {name}, which requires it to be merged",
                    where=str(self.folder),
                    remedy="--engine dynamic, or merge it: ./inv export --model MODEL"
                    " --adapter RUN --merge",
                )
            if name.endswith(".lora_A"):
                layer = name.removesuffix(".lora_A")
                if layer + ".lora_AB" in self._state:
                    values = values @ self._state[layer + ".lora_AB"]
                factors[layer] = (values, self._state[layer + ".lora_B"] * self._scaling)
        return factors

    def changes(self) -> Iterator[tuple[str, npt.NDArray[np.float32], bool]]:
        """Yield a weight's name, an array, and whether it is added to the weight or replaces it.

        Fully trained layers (``trainable_modules``, biases) replace those of the base model.
        """
        for name, values in self._state.items():
            if name.endswith(".lora_A"):
                layer = name.removesuffix(".lora_A")
                if layer + ".lora_AB" in self._state:  # a mixer, arXiv:2406.11909
                    values = values @ self._state[layer + ".lora_AB"]
                change = values @ self._state[layer + ".lora_B"] * self._scaling
                yield layer + ".weight", change, True
            elif not name.endswith(_FACTORS):
                yield name, values, False


def _scaling(folder: Path) -> np.float32:
    path = folder / _CONFIG
    config = json_files.read_object(path, message="not an adapter's configuration")
    try:
        rank, alpha = int(config["r"]), float(config.get("lora_alpha", config["r"]))
        parts = int(config.get("tensor_parallel_degree", -1))
        if rank < 1:
            raise ValueError(f"r is {rank}")
        if not math.isfinite(alpha):
            raise ValueError(f"lora_alpha is {alpha}")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        fault = f"not an adapter's configuration: {type(error).__name__}: {error}"
        raise RequestError(
            fault,
            where=str(path),
            remedy="use the folder of a trained adapter: --adapter runs/NAME",
        ) from None
    for key in ("pissa", "do_qat"):
        if config.get(key):
            raise RequestError(
                f"adapters with {key} are not supported",
                where=str(path),
                remedy="merge it where it was trained, and fetch the result as a model",
            )
    if parts > 1:
        fault = "the adapter is split for tensor parallelism"
        raise RequestError(fault, where=str(path), remedy="save it with merge_tensor_parallel")
    return np.float32(alpha / (rank**0.5 if config.get("rslora") else rank))


def _state(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    path = folder / _STATE
    if not path.is_file():
        remedy = "if the run is unfinished, start the same finetune command again: it resumes"
        raise RequestError(
            f"the adapter has no weights: {_STATE} is missing", where=str(folder), remedy=remedy
        )
    try:
        with path.open("rb") as stream:
            state = pickles.load(stream)
    except StackError:  # also a signal to stop
        raise
    except Exception as error:  # unpickling damaged data raises any exception
        fault = f"the adapter's weights are damaged: {type(error).__name__}: {error}"
        raise RequestError(fault, where=str(path), remedy="train it again") from None
    if isinstance(state, dict):
        state.pop(_PARAMETER_NAMES, None)
    if not isinstance(state, dict) or not all(isinstance(v, np.ndarray) for v in state.values()):
        raise RequestError(
            "the file is not an adapter's state",
            where=str(path),
            remedy="train it again, or copy the complete folder of the run",
        )
    return {name: _as_float32(values) for name, values in state.items()}


def _as_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if values.dtype == np.uint16:  # bfloat16, as Paddle hands it to NumPy: the upper half
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def _check_fit(
    folder: Path,
    state: Mapping[str, npt.NDArray[np.float32]],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    faults = []
    for name, values in state.items():
        layer = name.removesuffix(".lora_A")
        if name.endswith((".lora_B", ".lora_AB")):
            if name.rpartition(".")[0] + ".lora_A" not in state:
                faults.append(f"{name} has no matching lora_A")
            continue
        target, shape = name, values.shape
        if name.endswith(".lora_A"):
            other = state.get(layer + ".lora_B")
            if other is None or values.ndim != 2 or values.shape[1:] != other.shape[:1]:
                faults.append(f"{name} has no matching lora_B")
                continue
            target, shape = layer + ".weight", (values.shape[0], other.shape[1])
        if target not in shapes:
            faults.append(f"the base model has no weight {target}")
        elif shapes[target] != shape:
            faults.append(
                f"the adapter's {target} is {list(shape)}, the base model's {list(shapes[target])}"
            )
    if not any(name.endswith(_FACTORS) for name in state):
        faults.append("it has no LoRA factors")
    if faults:
        more = len(faults) - _LISTED
        remedy = "use the --model that the adapter was trained on"
        problems = [Problem(fault, str(folder), remedy) for fault in faults[:_LISTED]]
        if more > 0:
            problems.append(Problem(f"and {more} more", str(folder), remedy))
        lead = Problem("the adapter does not fit the base model", str(folder), remedy)
        raise RequestError([lead, *problems])

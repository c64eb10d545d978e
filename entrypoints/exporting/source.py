"""A PaddleNLP checkpoint as other tools see it: Hugging Face's names, layout and number formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.models import safetensors_file
from entrypoints.models.files import weight_files
from entrypoints.models.llama import architectures, paddle_names, problems_of, weight_shapes
from entrypoints.models.safetensors_file import Stored, Tensor
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.llama_config import LlamaConfig, from_config

__all__ = ["DTYPES", "Checkpoint", "Weight", "check_config", "read"]

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The types of weights in a safetensors file, by the names of ``--precision``."""

_STORED = {**{kind: kind for kind in DTYPES.values()}, "U16": "BF16"}  # Paddle's own bfloat16
_WHOLE = "export the model that it was quantized from"


@dataclass(frozen=True)
class Weight:
    """A weight of a checkpoint.

    Args:
        name: Hugging Face's.
        dtype: as it is stored: ``F32``, ``F16`` or ``BF16``.
        shape: in Hugging Face's layout, rows = outputs.
        read: returns the stored numbers as integers of their size, in that layout.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], npt.NDArray[Any]]

    def tensor(self, precision: str = "", name: str = "", *, transposed: bool = False) -> Tensor:
        """Return the weight for a safetensors file.

        Args:
            precision: a key of :data:`DTYPES`; empty for the type that it is stored in.
            name: in the file; empty for Hugging Face's.
            transposed: whether the file has PaddleNLP's layout.
        """
        dtype = DTYPES.get(precision, self.dtype)

        def values() -> npt.NDArray[Any]:
            array = converted(self.read(), self.dtype, dtype, self.name)
            return array.T if transposed else array

        shape = self.shape[::-1] if transposed else self.shape
        return Tensor(name or self.name, dtype, shape, values)

    def floats(self) -> npt.NDArray[np.float32]:
        """Return the weight's values."""
        return converted(self.read(), self.dtype, "F32", self.name).view(np.float32)


@dataclass(frozen=True)
class Checkpoint:
    """A PaddleNLP checkpoint that can be exported.

    Args:
        folder: of the checkpoint.
        config: its ``config.json``.
        llama: the numbers in it.
        weights: in Hugging Face's order.
    """

    folder: Path
    config: Mapping[str, Any]
    llama: LlamaConfig
    weights: tuple[Weight, ...]

    @property
    def dtype(self) -> str:
        """The type of the weights, as ``--precision`` names it."""
        names = {kind: name for name, kind in DTYPES.items()}
        return names[self.weights[0].dtype]


def check_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model that can be exported.

    Raises:
        RequestError: it is not a Llama, was quantized, or has rotary embeddings that
            transformers does not have.
    """
    path = folder / "config.json"
    config = json_files.read_object(path, message="not a model's configuration")
    problems = []
    if architectures(config) != ["LlamaForCausalLM"]:
        shown = ", ".join(architectures(config)) or "none"
        fault = f'only LlamaForCausalLM can be exported, not "{shown}"'
        problems.append(Problem(fault, str(path), "use the PaddleNLP folder as it is"))
    if config.get("quantization_config"):
        problems.append(Problem("the model is quantized", str(path), _WHOLE))
    kind = config.get("rope_scaling_type")
    if kind not in (None, "linear"):
        fault = f'transformers has no rotary embeddings like rope_scaling_type "{kind}"'
        problems.append(Problem(fault, str(path), "use the PaddleNLP folder as it is"))
    if config.get("fuse_attention_qkv") or config.get("fuse_attention_ffn"):
        fault = "the model has fused projections"
        problems.append(Problem(fault, str(path), "train it without fuse_attention_qkv and _ffn"))
    if problems:
        raise RequestError(problems)
    return config


def read(folder: Path) -> Checkpoint:
    """Return the checkpoint in a folder, which has safetensors.

    Raises:
        RequestError: it cannot be exported; every fault is named.
    """
    config = check_config(folder)
    llama = from_config(
        {key: value for key, value in config.items() if value is not None},
        where=str(folder / "config.json"),
    )
    stored = {
        name: (path, entry)
        for path in weight_files(folder)
        for name, entry in safetensors_file.read_header(path).items()
    }
    _drop_zero_biases(stored)
    names = {paddle_names(name, shape)[0]: name for name, shape in weight_shapes(llama).items()}
    if llama.tie_word_embeddings:
        stored.pop("lm_head.weight", None)
    shapes = {
        names.get(name, name): _outputs_first(name, entry.shape)
        for name, (_, entry) in stored.items()
    }
    problems = problems_of(shapes, weight_shapes(llama), str(folder))
    problems += [
        Problem(f"weight {name} is of the type {entry.dtype}", str(path), _WHOLE)
        for name, (path, entry) in stored.items()
        if entry.dtype not in _STORED
    ]
    if problems:
        raise RequestError(problems[:20])
    weights = (_weight(name, *stored[paddle]) for paddle, name in names.items())
    return Checkpoint(folder, config, llama, tuple(weights))


def _outputs_first(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if paddle_names(name, shape)[1] else shape


def _drop_zero_biases(stored: dict[str, tuple[Path, Stored]]) -> None:
    """Leave out biases that are zero, which merging an adapter adds.

    Raises:
        RequestError: one is not zero, which a Llama does not have.
    """
    for name in [name for name in stored if name.endswith(".bias")]:
        path, entry = stored.pop(name)
        with safetensors_file.opened(path) as tensor:
            values = tensor(entry)
        if np.any(converted(values, _STORED[entry.dtype], "F32", name).view(np.float32)):
            raise RequestError(
                f"{name} is not zero: a Llama has no biases",
                where=str(path),
                remedy="use the PaddleNLP folder as it is",
            )


def _weight(name: str, path: Path, entry: Stored) -> Weight:
    shape = _outputs_first(name, entry.shape)

    def values() -> npt.NDArray[Any]:
        with safetensors_file.opened(path) as tensor:
            array = tensor(entry)
        return array.T if paddle_names(name, shape)[1] else array

    return Weight(name, _STORED[entry.dtype], shape, values)


def converted(values: npt.NDArray[Any], stored: str, target: str, name: str) -> npt.NDArray[Any]:
    """Return numbers in another type, as integers of its size; the same type is unchanged.

    Args:
        values: integers of the stored type's size.
        stored: ``F32``, ``F16`` or ``BF16``.
        target: another of them.
        name: the weight's, for messages.

    Raises:
        RequestError: a value is too large for float16.
    """
    if stored == target:
        return values
    if stored == "BF16":
        bits = values.astype(np.uint32) << 16
    elif stored == "F16":
        bits = values.view(np.float16).astype(np.float32).view(np.uint32)
    else:
        bits = values.view(np.uint32)
    if target == "F32":
        return bits
    if target == "F16":
        with np.errstate(over="ignore"):
            halves = bits.view(np.float32).astype(np.float16)
        if np.isinf(halves).any():
            raise RequestError(
                f"{name} has values beyond float16",
                where="--precision float16",
                remedy="--precision bfloat16, or float32",
            )
        return halves.view(np.uint16)
    # Round to the nearest, ties to even, as the hardware does.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)

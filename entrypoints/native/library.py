"""The engine's library (``images/native/native.h``), by ctypes."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

from paddle_stacks.errors import MachineError

__all__ = [
    "BLOCK",
    "INSTRUCTION_SETS",
    "PANEL",
    "PROJECTIONS",
    "Batch",
    "Input",
    "Layer",
    "Linear",
    "Lora",
    "Model",
    "Type",
    "block_bytes",
    "instruction_set",
    "load",
    "step",
]

PATH = Path("/opt/native/libpaddle_stacks_native.so")
"""In the images; the variable ``PADDLE_STACKS_NATIVE_LIBRARY`` names another one."""

_VARIABLE = "PADDLE_STACKS_NATIVE_LIBRARY"
_ABI = 1

BLOCK = 32
"""Positions in a block of keys and values."""
PANEL = 32
"""Outputs in a panel of weights; vectors are padded to a multiple of it."""

PROJECTIONS = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
"""A layer's projections, in the library's order."""

INSTRUCTION_SETS = {"auto": 0, "plain": 1, "avx2": 2, "avx512": 3}


class Type:
    """The types of weights."""

    FLOAT32, BFLOAT16, INT8, INT8_GROUP32 = range(4)


class Linear(Structure):
    """``PsLinear``."""

    _fields_ = (
        *(("weight", c_void_p), ("scales", c_void_p), ("bias", c_void_p)),
        *(("type", c_int32), ("inputs", c_int32), ("outputs", c_int32)),
    )


class Input(Structure):
    """``PsInput``."""

    _fields_ = (("shift", c_void_p), ("smooth", c_void_p), ("step", c_float))


class Layer(Structure):
    """``PsLayer``."""

    _fields_ = (
        ("linear", Linear * len(PROJECTIONS)),
        *((f"{name}_input", Input) for name in ("attention", "output", "mlp", "down")),
        *(("attention_norm", c_void_p), ("attention_norm_bias", c_void_p)),
        *(("mlp_norm", c_void_p), ("mlp_norm_bias", c_void_p)),
        *(("key_steps", c_void_p), ("value_steps", c_void_p)),
    )


class Model(Structure):
    """``PsModel``."""

    _fields_ = (
        *((name, c_int32) for name in ("layers", "hidden", "intermediate", "heads")),
        *((name, c_int32) for name in ("kv_heads", "head_dim", "vocabulary", "context")),
        *(("epsilon", c_float), ("embedding_type", c_int32), ("embedding", c_void_p)),
        *(("norm", c_void_p), ("cos", c_void_p), ("sin", c_void_p)),
        *(("head", Linear), ("layer", POINTER(Layer))),
    )


class Lora(Structure):
    """``PsLora``."""

    _fields_ = (("down", Linear), ("up", Linear))


class Batch(Structure):
    """``PsBatch``."""

    _fields_ = (
        *((name, c_int32) for name in ("tokens", "sequences", "outputs", "blocks_per_sequence")),
        *((name, c_void_p) for name in ("token", "sequence", "position", "output", "blocks")),
        *(("adapter", c_void_p), ("logits", c_void_p)),
    )


_FAULTS = {
    -1: "there is not enough memory",
    -2: "a token is not in the vocabulary",
    -3: "the tokens of a sequence are not next to each other",
    -4: "a position is not in the context, or its block is missing",
    -5: "logits of a token that is not in the batch",
    -6: "an empty batch",
    -7: "the processor does not have the instruction set",
}


@cache
def load() -> ctypes.CDLL:
    """Return the library.

    Raises:
        MachineError: it is missing or another version's.
    """
    path = Path(os.environ.get(_VARIABLE) or PATH)
    remedy = "build the image again: ./inv build infer; or --engine dynamic"
    try:
        library = ctypes.CDLL(str(path))
        abi = library.ps_abi()
    except (OSError, AttributeError) as error:
        raise MachineError(
            f"the native engine's library cannot be loaded: {error}", where=str(path), remedy=remedy
        ) from None
    if abi != _ABI:
        raise MachineError(
            f"the native engine's library has the interface {abi}, expected {_ABI}",
            where=str(path),
            remedy=remedy,
        )
    library.ps_block_bytes.restype = c_int64
    return library


def instruction_set() -> str:
    """Return the instruction set that ``auto`` stands for on this processor."""
    number = load().ps_instruction_set()
    return next(name for name, value in INSTRUCTION_SETS.items() if value == number)


def block_bytes(model: Model) -> int:
    """Return the size of a block of keys and values."""
    return int(load().ps_block_bytes(ctypes.byref(model)))


def step(model: Model, batch: Batch, threads: int, instructions: str = "auto") -> None:
    """Compute a step.

    Raises:
        MemoryError: there is not enough.
        ValueError: the batch is not valid.
    """
    fault = load().ps_step(
        ctypes.byref(model), ctypes.byref(batch), threads, INSTRUCTION_SETS[instructions]
    )
    if fault:
        message = f"the native engine failed: {_FAULTS.get(fault, f'fault {fault}')}"
        raise MemoryError(message) if fault == -1 else ValueError(message)

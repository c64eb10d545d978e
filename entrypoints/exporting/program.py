"""The step of a Llama as a program for Paddle Inference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle

from entrypoints.inference.llama import Inputs, Network, cache_names, rotary_heads
from entrypoints.models.llama import paddle_weight_shapes
from paddle_stacks.jobs.llama_config import LlamaConfig

__all__ = ["program", "signature"]

Signature = dict[str, tuple[list[int], str]]


def signature(config: LlamaConfig) -> Signature:
    """Return the shapes, with -1 for variable sizes, and types of the program's inputs.

    Args:
        config: the model's.
    """
    kv_heads, head_dim = config.num_key_value_heads, config.head_dim
    inputs: Signature = {
        "tokens": ([-1, -1], "int64"),
        "cos": ([-1, -1, rotary_heads(config), head_dim], "float32"),
        "sin": ([-1, -1, rotary_heads(config), head_dim], "float32"),
        "mask": ([-1, kv_heads, -1, -1], "float32"),
        "slots": ([-1], "int64"),
        "last": ([-1], "int64"),
    }
    for layer in range(config.num_hidden_layers):
        for flat, cube in cache_names(layer):
            inputs[flat] = ([-1, head_dim], "float32")
            inputs[cube] = ([-1, kv_heads, -1, head_dim], "float32")
    return inputs | {
        name: (list(size), "float32") for name, size in paddle_weight_shapes(config).items()
    }


def program(config: LlamaConfig) -> bytes:
    """Return the serialized program of a step.

    It uses Paddle's older format, because the newer one (PIR) does not support operators that
    write to their inputs.

    Args:
        config: the model's.
    """
    from paddle.pir_utils import OldIrGuard

    with OldIrGuard(), _static_mode():
        return _serialized(config)


@contextmanager
def _static_mode() -> Iterator[None]:
    paddle.enable_static()
    try:
        yield
    finally:
        paddle.disable_static()


def _serialized(config: LlamaConfig) -> bytes:
    draft = paddle.static.Program()
    with paddle.static.program_guard(draft, paddle.static.Program()):
        variables = {
            name: paddle.static.data(name, size, kind)
            for name, (size, kind) in signature(config).items()
        }
        caches: list[Any] = [
            tuple((variables[flat], variables[cube]) for flat, cube in cache_names(layer))
            for layer in range(config.num_hidden_layers)
        ]
        inputs = Inputs(**{name: variables[name] for name in Inputs.__dataclass_fields__})
        logits = Network(config, variables).logits(inputs, caches)
    # Writes to a cache do not lead to an output and would be pruned.
    whole = paddle.static.normalize_program(
        draft, list(variables.values()), [logits], skip_prune_program=True
    )
    for block in whole.blocks:
        for operator in block.ops:
            # The call stacks contain this machine's paths, and are nine tenths of the file.
            operator.desc.remove_attr("op_callstack")
    serialized: bytes = whole.desc.serialize_to_string()
    return serialized

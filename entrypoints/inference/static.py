"""The static engine: Paddle Inference executes the program that ``export --static`` wrote.

Everything is an input of the program, including weights and caches, and is used in place: the
weights are mapped from the checkpoint's file and shared between processes, and the caches are
updated in place. Paddle's parameter file would be copied instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from entrypoints.inference import exported
from entrypoints.inference.decoding import Cache, Model, keep_freed_memory, shared
from entrypoints.inference.llama import Inputs, cache_names, llama_config, rotation_tables
from entrypoints.inference.model import check_complete, read_config
from entrypoints.inference.weights import Weights
from entrypoints.models.llama import paddle_weight_shapes
from paddle_stacks.errors import RequestError

__all__ = ["Engine", "load"]

_GARBAGE_GB = 2**-8  # 4 MiB, which fit into a core's caches

# The operations of llama.py. A program is untrusted code: some of Paddle's operations write files
# (save_combine), load libraries or call Python (py_func).
_OPERATIONS = frozenset(
    {
        *("concat", "elementwise_add", "elementwise_mul", "feed", "fetch", "gather"),
        *("lookup_table_v2", "matmul_v2", "reduce_mean", "reshape2", "roll", "rsqrt", "scale"),
        *("scatter", "shape", "silu", "softmax", "split", "transpose2"),
    }
)


class Engine:
    """Computes steps with the static graph.

    Args:
        program: the file.
        weights: by PaddleNLP's names, float32; used in place.
    """

    def __init__(self, program: Path, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        from paddle import inference

        keep_freed_memory()
        # By default Paddle's executor frees every intermediate result in another thread, which
        # wakes up 1500 times per step and spins in between on a core that the products need.
        # That takes a third of a step on two cores.
        paddle.set_flags({"FLAGS_eager_delete_tensor_gb": _GARBAGE_GB})
        config = inference.Config()
        config.set_prog_file(str(program))
        config.disable_gpu()
        config.disable_glog_info()
        # No conversion to the new IR, which does not support inputs that are written. Its passes
        # find nothing to fuse, and oneDNN's products of one row take 1.5 times as long as MKL's.
        config.switch_ir_optim(False)
        config.enable_new_ir(False)
        config.disable_mkldnn()
        config.enable_memory_optim(True)
        config.set_cpu_math_library_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self._predictor = inference.create_predictor(config)
        names = self._predictor.get_input_names()
        self._inputs = {name: self._predictor.get_input_handle(name) for name in names}
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])
        self._weights = {name: shared(array) for name, array in weights.items()}
        self._bind(self._weights)
        self._bound: object = None

    def run(self, inputs: Inputs, cache: Cache) -> npt.NDArray[np.float32]:
        """Return logits, ``[vocabulary, rows]``, and update the cache; the inputs are arrays."""
        if self._bound is not cache.tensors:
            self._bind(
                {
                    name: tensor
                    for layer, slots in enumerate(cache.tensors)
                    for names, tensors in zip(cache_names(layer), slots, strict=True)
                    for name, tensor in zip(names, tensors, strict=True)
                }
            )
            self._bound = cache.tensors
        tensors_by_name = {each.name: shared(getattr(inputs, each.name)) for each in fields(Inputs)}
        self._bind(tensors_by_name)
        self._predictor.run()
        logits: npt.NDArray[np.float32] = self._output.copy_to_cpu()
        return logits

    def _bind(self, tensors: Mapping[str, Any]) -> None:
        for name, tensor in tensors.items():
            self._inputs[name].share_external_data(tensor)


def _check_operations(path: Path) -> None:
    """Reject a program with operations that a step does not need.

    Raises:
        RequestError: it has such operations, or is not a program.
    """
    from paddle.base import core

    try:
        program = core.ProgramDesc(path.read_bytes())
    except ValueError:
        raise RequestError(
            "the file is not a Paddle program", where=str(path), remedy="export the model again"
        ) from None
    blocks = [program.block(number) for number in range(program.num_blocks())]
    operations = {block.op(number).type() for block in blocks for number in range(block.op_size())}
    if other := sorted(operations - _OPERATIONS):
        raise RequestError(
            f"the program has operations that an export never contains: {', '.join(other)}",
            where=str(path),
            remedy="export the model again with this version",
        )


def load(folder: Path) -> Model:
    """Return the model of an exported folder, for the static engine.

    Raises:
        RequestError: ``export --static`` did not write the folder, or files are missing or
            damaged.
    """
    exported.check(folder)
    _check_operations(folder / exported.PROGRAM)
    paddle_config = read_config(folder)
    config = llama_config(paddle_config)
    weights = Weights(folder)
    shapes = paddle_weight_shapes(config)
    check_complete(weights, shapes)
    arrays = {name: np.ascontiguousarray(weights[name]) for name in shapes}
    engine = Engine(folder / exported.PROGRAM, arrays)
    tables = rotation_tables(paddle_config, config.max_position_embeddings)
    return Model(engine, config, tables)

"""The dynamic engine: Paddle executes the operations of a Llama one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from entrypoints.inference.decoding import Cache, keep_freed_memory, shared
from entrypoints.inference.llama import Inputs, Network, Tap
from paddle_stacks.jobs.llama_config import LlamaConfig

__all__ = ["Engine"]


class Engine:
    """Computes steps with the dynamic graph.

    Args:
        config: the model's.
        weights: by PaddleNLP's names, float32; used in place.
        tap: called with the input of every product; may be None.
    """

    def __init__(
        self, config: LlamaConfig, weights: Mapping[str, npt.NDArray[Any]], tap: Tap | None = None
    ) -> None:
        # Strided views, Paddle's default, are made contiguous by a kernel that takes 20 ns per
        # element; plain copies take a thirtieth of that.
        paddle.set_flags({"FLAGS_use_stride_kernel": False})
        keep_freed_memory()
        tensors = {name: shared(array) for name, array in weights.items()}
        self._network = Network(config, tensors, tap)

    def run(self, inputs: Inputs, cache: Cache) -> npt.NDArray[np.float32]:
        """Return logits, ``[vocabulary, rows]``, and update the cache; the inputs are arrays."""
        tensors = Inputs(**{name: shared(array) for name, array in vars(inputs).items()})
        with paddle.no_grad():
            logits: npt.NDArray[np.float32] = self._network.logits(tensors, cache.tensors).numpy()
        return logits

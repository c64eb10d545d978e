"""The dynamic engine: Paddle carries out a Llama's operations one by one."""

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
    """Computes steps.

    Args:
        config: the model's.
        weights: by PaddleNLP's names, float32; they are used where they are.
        tap: sees what every product takes; None for none.
    """

    def __init__(
        self, config: LlamaConfig, weights: Mapping[str, npt.NDArray[Any]], tap: Tap | None = None
    ) -> None:
        # Strided views, Paddle's default, are turned into matrices by a kernel that takes
        # 20 ns an element; plain copies take a thirtieth.
        paddle.set_flags({"FLAGS_use_stride_kernel": False})
        keep_freed_memory()
        tensors = {name: shared(array) for name, array in weights.items()}
        self._network = Network(config, tensors, tap)

    def run(self, inputs: Inputs, cache: Cache) -> npt.NDArray[np.float32]:
        """Return logits, ``[vocabulary, rows]``, and write into the cache; arrays go in."""
        tensors = Inputs(**{name: shared(array) for name, array in vars(inputs).items()})
        with paddle.no_grad():
            logits: npt.NDArray[np.float32] = self._network.logits(tensors, cache.tensors).numpy()
        return logits

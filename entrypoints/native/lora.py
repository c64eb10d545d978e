"""A LoRA adapter (arXiv:2106.09685) beside the weights, in the engine's layout."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import numpy.typing as npt

from entrypoints.inference.adapter import Adapter
from entrypoints.models.llama import paddle_weight_shapes
from entrypoints.native import library
from entrypoints.native.config import NativeConfig
from entrypoints.native.library import PROJECTIONS, Type
from entrypoints.native.packing import pack_linear
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import workspace

__all__ = ["LoraAdapter"]

Floats = npt.NDArray[np.float32]


class LoraAdapter:
    """Factors of projections' weights, which are applied to a token beside them.

    Args:
        config: the base model's.
        factors: by PaddleNLP's name of the projection: A ``[inputs, rank]`` and B
            ``[rank, outputs]``, the scaling in B.

    Attributes:
        address: where the library finds them.
    """

    def __init__(self, config: NativeConfig, factors: dict[str, tuple[Floats, Floats]]) -> None:
        count = config.llama.num_hidden_layers * len(PROJECTIONS)
        self._memory: list[npt.NDArray[np.float32]] = []
        self._table = (library.Lora * count)()
        for layer in range(config.llama.num_hidden_layers):
            for number, projection in enumerate(PROJECTIONS):
                name = f"llama.layers.{layer}.{projection}"
                if name in factors:
                    down, up = map(self._linear, factors[name])
                    self._table[layer * len(PROJECTIONS) + number] = library.Lora(down, up)
        self.address = ctypes.addressof(self._table)

    @classmethod
    def load(cls, folder: Path, model: Path, config: NativeConfig) -> LoraAdapter:
        """Return the adapter in a folder.

        Args:
            folder: the adapter's.
            model: the base model's.
            config: the base model's.

        Raises:
            RequestError: it is damaged, does not belong to the model, or has more than factors.
        """
        if workspace.is_quantized(model):
            raise RequestError(
                f"{model} was quantized, and its scales are not those of an adapter",
                where=str(folder),
                remedy="merge the adapter first (export --merge), then quantize what it makes",
            )
        return cls(config, Adapter(folder, paddle_weight_shapes(config.llama)).factors())

    def _linear(self, weight: Floats) -> library.Linear:
        packed = pack_linear(np.ascontiguousarray(weight, np.float32))
        self._memory.append(packed)
        inputs, outputs = weight.shape
        return library.Linear(
            weight=packed.ctypes.data, type=Type.FLOAT32, inputs=inputs, outputs=outputs
        )

"""Memory-mapped weights of a checkpoint.

Nothing is copied before it is used, and processes share the pages. The mapping is private:
changes such as a merged adapter never reach the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.inference import quantized
from entrypoints.models.files import weight_files
from entrypoints.models.int8 import dequantized
from entrypoints.models.safetensors_file import ITEM_SIZES, Stored, Tensor, read_header
from paddle_stacks.errors import RequestError

__all__ = ["Weights"]

_TYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "F64": np.float64,
    "BF16": np.uint16,
    "I8": np.int8,
}


class Weights(Mapping[str, npt.NDArray[np.float32]]):
    """The weights of a folder with ``model.safetensors``, or with shards and their index.

    Opening it checks that all files exist and are complete. Weights are arrays of float32;
    those of other types are converted on access, int8 ones with their scales.

    Args:
        folder: the checkpoint.

    Raises:
        RequestError: it has no safetensors, or files are missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stored: dict[str, tuple[Path, Stored]] = {}
        files = weight_files(folder)
        if not files:
            raise RequestError(
                f"{folder} has no weights in safetensors files",
                where=str(folder),
                remedy="./inv fetch converts other formats",
            )
        for path in files:
            for name, stored in read_header(path).items():
                if stored.dtype not in _TYPES:
                    raise RequestError(
                        f"{name} has the unsupported type {stored.dtype}",
                        where=str(path),
                        remedy="fetch the model again, which converts it to float32 or float16",
                    )
                self._stored[name] = (path, stored)
        shapes = {
            n: stored.shape for n, (_, stored) in self._stored.items() if stored.dtype == "I8"
        }
        self._scales = quantized.weight_scales(folder, shapes) if shapes else {}
        self._mapped: dict[Path, npt.NDArray[np.uint8]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        stored = self._stored[name][1]
        raw = self._bytes(name)
        values: npt.NDArray[Any] = raw.view(_TYPES[stored.dtype]).reshape(stored.shape)
        if stored.dtype == "BF16":  # the upper half of a float32
            return (values.astype(np.uint32) << 16).view(np.float32)
        if stored.dtype == "I8":
            return dequantized(values, self._scales[name])
        return values.astype(np.float32, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def as_stored(self, name: str) -> Tensor:
        """Return a weight as stored, for writing it into another file."""
        stored = self._stored[name][1]
        integers = f"<u{ITEM_SIZES[stored.dtype]}"
        return Tensor(
            name,
            stored.dtype,
            stored.shape,
            lambda: self._bytes(name).view(integers).reshape(stored.shape),
        )

    def _bytes(self, name: str) -> npt.NDArray[np.uint8]:
        path, stored = self._stored[name]
        if path not in self._mapped:
            self._mapped[path] = np.memmap(path, dtype=np.uint8, mode="c")
        return self._mapped[path][stored.begin : stored.end]

    def scales(self, name: str) -> npt.NDArray[np.float32]:
        """Return the scale of each output of a weight in eight bits, ``[outputs]``."""
        return self._scales[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a weight's shape without reading the weight."""
        return self._stored[name][1].shape

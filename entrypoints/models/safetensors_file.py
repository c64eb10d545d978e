"""Reading and writing of safetensors files, one tensor at a time.

The format: eight bytes with the length of a JSON header, the header, and the bytes of the
tensors (https://huggingface.co/docs/safetensors). This implementation has three advantages over
the library: memory is bounded by the largest tensor instead of the file, bfloat16 is supported
although NumPy lacks the type, and headers are checked against the file before they are used.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files

__all__ = ["ITEM_SIZES", "Stored", "Tensor", "opened", "read_header", "write"]

ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
"""Bytes per element, by type name."""

_MOST_DIMENSIONS = 32  # NumPy's limit
_LONGEST_HEADER = 100_000_000  # the reference implementation's own limit


@dataclass(frozen=True)
class Stored:
    """The location of a tensor in a file.

    Args:
        dtype: one of :data:`ITEM_SIZES`.
        shape: as stored.
        begin: offset of its first byte in the file.
        end: offset after its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written.

    Args:
        name: its key in the file.
        dtype: one of :data:`ITEM_SIZES`.
        shape: of the array that ``values`` returns.
        values: returns the array when it is written; items of the type's size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: Callable[[], npt.NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Size in the file, in bytes."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]


def read_header(path: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file, by name.

    Raises:
        RequestError: the file is truncated or is not a safetensors file; all faults of the
            header at once.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise RequestError(
                f"incomplete safetensors file: {size} bytes with a header of {length}",
                where=str(path),
                remedy="get the file again",
            )
        try:
            header = json_files.parse(stream.read(length))
        except ValueError as error:
            raise RequestError(
                f"the header of the safetensors file is not JSON: {error}",
                where=str(path),
                remedy="get the file again from the model's source",
            ) from None
    if not isinstance(header, dict):
        raise RequestError(
            "the header of the safetensors file is not an object",
            where=str(path),
            remedy="get the file again from the model's source",
        )
    header.pop("__metadata__", None)
    tensors: dict[str, Stored] = {}
    problems = []
    for name, entry in header.items():
        try:
            tensors[name] = _stored(entry, 8 + length, size)
        except (KeyError, TypeError, ValueError) as error:
            problems.append(Problem(f'tensor "{name}": {error}', str(path), "get the file again"))
    if not problems and (twice := _overlapping(tensors)):
        message = f'tensors "{twice[0]}" and "{twice[1]}" overlap'
        problems.append(Problem(message, str(path), "get the file again"))
    if problems:
        raise RequestError(problems)
    return tensors


def _overlapping(tensors: dict[str, Stored]) -> tuple[str, str] | None:
    """Return two tensors that share bytes, or None."""
    placed = sorted((s.begin, s.end, name) for name, s in tensors.items() if s.end > s.begin)
    for (_, end, name), (begin, _, other) in pairwise(placed):
        if begin < end:
            return name, other
    return None


def _stored(entry: Any, start: int, size: int) -> Stored:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if dtype not in ITEM_SIZES:
        raise ValueError(f"unknown type {dtype}")
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError("shape and offsets must be non-negative integers")
    if len(shape) > _MOST_DIMENSIONS or max(shape, default=0) > size:
        raise ValueError(
            f"impossible shape: {len(shape)} dimensions, the largest is {max(shape, default=0)}"
        )
    if end - begin != math.prod(shape) * ITEM_SIZES[dtype]:
        raise ValueError(f"{end - begin} bytes do not match {dtype} {list(shape)}")
    if start + end > size:
        raise ValueError(f"ends at byte {start + end} of {size}: the file is truncated")
    return Stored(dtype, shape, start + begin, start + end)


@contextmanager
def opened(path: Path) -> Iterator[Callable[[Stored], npt.NDArray[Any]]]:
    """Yield a function that returns a tensor of the file as an array of unsigned integers.

    The integers have the size of the tensor's items, so all types are preserved.
    """
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):

        def tensor(stored: Stored) -> npt.NDArray[Any]:
            # A copy, because a view would keep the mapping open.
            raw = mapped[stored.begin : stored.end]
            integers = f"<u{ITEM_SIZES[stored.dtype]}"
            return np.frombuffer(raw, dtype=integers).reshape(stored.shape)

        yield tensor


def write(
    path: Path,
    tensors: Sequence[Tensor],
    progress: Callable[[int], None] = lambda _: None,
    framework: str = "np",
) -> None:
    """Write a safetensors file; memory is bounded by the largest tensor.

    Args:
        path: the file.
        tensors: what to write, in this order.
        progress: called with the number of bytes written so far.
        framework: the metadata's "format": PaddleNLP requires ``np``, transformers ``pt``.

    Raises:
        ValueError: an array does not match its tensor.
    """
    header: dict[str, Any] = {"__metadata__": {"format": framework}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # tensors are aligned to eight bytes
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        done = 0
        for tensor in tensors:
            array = np.ascontiguousarray(tensor.values())
            if array.shape != tensor.shape or array.nbytes != tensor.nbytes:
                raise ValueError(f"{tensor.name}: {array.shape} {array.dtype} is not {tensor}")
            stream.write(array.data)
            done += array.nbytes
            progress(done)


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the size of the tensors in a file, in bytes."""
    return sum(tensor.nbytes for tensor in tensors)

"""Reading of GGUF files, with checks of all counts against the file's size.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader of the ``gguf``
package trusts the counts in a file, so a damaged file makes it allocate without end.
Dequantization is the package's.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from paddle_stacks.errors import RequestError

__all__ = ["Gguf", "TensorInfo", "opened"]

T = TypeVar("T")

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
# More than any model has; without a limit, a file of zeros would take many times its size.
_MOST_ENTRIES, _MOST_TENSORS, _MOST_ITEMS = 2**16, 2**18, 2**22
_MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
_SHORTEST_ENTRY = 13  # key length, an empty key, type, one byte
_SHORTEST_TENSOR = 32  # name length, an empty name, dimensions, one of them, type, offset


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a GGUF file.

    Args:
        name: as in the file.
        shape: rows first, as in NumPy (GGUF stores the fastest dimension first).
        type_name: its quantization: ``F32``, ``Q4_1``, …
        begin: offset of its first byte in the file.
        nbytes: its size in the file.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    begin: int
    nbytes: int


class Gguf:
    """An open GGUF file.

    Args:
        path: the file, for messages.
        mapped: its bytes.

    Attributes:
        metadata: the key-value pairs.
        tensors: by name, in the file's order.

    Raises:
        RequestError: it is not a GGUF file, is truncated, or has an unsupported version or
            type.
    """

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.path = path
        self._mapped = mapped
        cursor = _Cursor(path, mapped)
        tensors, entries = _counts(cursor)
        self.metadata: dict[str, Any] = {}
        cursor.limit(entries, _MOST_ENTRIES, "metadata entries")
        cursor.limit(tensors, _MOST_TENSORS, "tensors")
        for _ in range(cursor.sane(entries, _SHORTEST_ENTRY, "metadata entries")):
            key = cursor.string()
            self.metadata[key] = cursor.value(cursor.number("I"))
        infos = [_tensor(cursor) for _ in range(cursor.sane(tensors, _SHORTEST_TENSOR, "tensors"))]
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise RequestError(
                f"alignment of {alignment!r}: not a power of two",
                where=str(path),
                remedy="get the file again from its source",
            )
        start = -(-cursor.offset // alignment) * alignment
        self.tensors = {
            info.name: TensorInfo(
                info.name, info.shape, info.type_name, start + info.begin, info.nbytes
            )
            for info in infos
        }
        self._check_extent(len(infos))

    def values(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor's values, dequantized."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        info = self.tensors[name]
        raw = np.frombuffer(self._mapped[info.begin : info.begin + info.nbytes], dtype=np.uint8)
        rows = raw.reshape((*info.shape[:-1], -1))
        values = dequantize(rows, GGMLQuantizationType[info.type_name])
        return np.asarray(values, dtype=np.float32).reshape(info.shape)

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """Return a metadata value of the type ``kind`` (an int passes for a float).

        Raises:
            RequestError: it has another type, or is missing without default.
        """
        value = self.metadata.get(key, default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            fault = "is missing" if value is None else f"is {value!r:.60}, expected {kind.__name__}"
            raise RequestError(
                f"the metadata's {key} {fault}",
                where=str(self.path),
                remedy="get the file again from its source",
            )
        return value

    def _check_extent(self, count: int) -> None:
        if len(self.tensors) != count:
            raise RequestError(
                "two tensors have the same name",
                where=str(self.path),
                remedy="get the file again from its source",
            )
        end = max((t.begin + t.nbytes for t in self.tensors.values()), default=0)
        if end > len(self._mapped):
            raise RequestError(
                f"the GGUF file is truncated: it has {len(self._mapped)} bytes,"
                f" but its tensors end at {end}",
                where=str(self.path),
                remedy="get the file again",
            )


@contextmanager
def opened(path: Path) -> Iterator[Gguf]:
    """Yield the GGUF file at ``path``; it is mapped into memory, not read.

    Raises:
        RequestError: see :class:`Gguf`.
    """
    if path.stat().st_size < len(MAGIC):
        raise RequestError(
            "not a GGUF file: it is too short",
            where=str(path),
            remedy="get the file again",
        )
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        yield Gguf(path, mapped)


class _Cursor:
    """Reads a file sequentially, and never beyond its end."""

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.path, self.offset, self._mapped = path, 0, mapped
        self._items = 0

    def sane(self, count: int, least: int, unit: str) -> int:
        """Return ``count`` if that many items of at least ``least`` bytes fit into the rest."""
        left = len(self._mapped) - self.offset
        if count * least > left:
            raise self._damaged(f"{count} {unit} do not fit into the remaining {left} bytes")
        return count

    def limit(self, count: int, most: int, unit: str) -> None:
        """Check a count against a limit."""
        if count > most:
            raise self._damaged(f"{count} {unit}, expected at most {most}")

    def take(self, size: int) -> bytes:
        self.sane(size, 1, "bytes")
        self.offset += size
        return self._mapped[self.offset - size : self.offset]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        raw = self.take(self.number("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(f"a string is not UTF-8: {error}") from None

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(self.number("I"), self.number("Q"))
        raise self._damaged(f"a metadata entry has the unknown type {kind}")

    def _array(self, kind: int, count: int) -> list[Any]:
        self._items += count
        self.limit(self._items, _MOST_ITEMS, "items of arrays")
        if kind == _STRING:
            return [self.string() for _ in range(self.sane(count, 8, "strings"))]
        if kind not in _SCALARS:
            raise self._damaged(f"an array of the unsupported type {kind}")
        code = _SCALARS[kind]
        self.sane(count, struct.calcsize("<" + code), "numbers")
        raw = self.take(count * struct.calcsize("<" + code))
        return list(struct.unpack(f"<{count}{code}", raw))

    def _damaged(self, fault: str) -> RequestError:
        return RequestError(
            f"the GGUF file is damaged or truncated: {fault}",
            where=f"{self.path}, byte {self.offset}",
            remedy="get the file again",
        )


def _counts(cursor: _Cursor) -> tuple[int, int]:
    if cursor.take(len(MAGIC)) != MAGIC:
        raise RequestError(
            "not a GGUF file: it does not start with GGUF",
            where=str(cursor.path),
            remedy="use a .gguf file, or a Hugging Face folder",
        )
    version = cursor.number("I")
    if version not in _VERSIONS:
        swapped = " (big-endian)" if version & 0xFFFF == 0 else ""
        raise RequestError(
            f"GGUF version {version}{swapped} is not supported",
            where=str(cursor.path),
            remedy="convert it to version 3, little-endian",
        )
    return cursor.number("Q"), cursor.number("Q")


def _tensor(cursor: _Cursor) -> TensorInfo:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import _type_traits  # there is no public list of the types it can dequantize

    name = cursor.string()
    dimensions = cursor.number("I")
    where = f"{cursor.path}, tensor {name}"
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise RequestError(
            f"a tensor of {dimensions} dimensions",
            where=where,
            remedy="get the file again: no tensor of a Llama has that many",
        )
    shape = tuple(reversed([cursor.number("Q") for _ in range(dimensions)]))
    number, offset = cursor.number("I"), cursor.number("Q")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise RequestError(
            f"unknown tensor type {number}",
            where=where,
            remedy="get a file with a common quantization, such as Q8_0 or F16",
        ) from None
    if kind.name not in ("F32", "F16") and kind not in _type_traits:
        supported = ", ".join(sorted(["F32", "F16", *(k.name for k in _type_traits)]))
        raise RequestError(
            f"tensor type {kind.name} is not supported", where=where, remedy=f"known: {supported}"
        )
    per_block, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % per_block:
        raise RequestError(
            f"rows of {shape[-1]} values do not fill blocks of {per_block} ({kind.name})",
            where=where,
            remedy="get the file again, or one with another quantization",
        )
    return TensorInfo(name, shape, kind.name, offset, math.prod(shape) // per_block * block_bytes)

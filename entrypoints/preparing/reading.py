"""Text files as blocks of whole documents, in order, whatever they are packed with."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.corpus import STDIN, Source

__all__ = ["BLOCK", "LONGEST", "Block", "Place", "Reader", "unit"]

BLOCK = 256 * 1024  # bytes that are read at once, and that a worker gets at the least
LONGEST = 64 * 1024 * 1024  # bytes of the longest document; it bounds the memory
_TAIL = 4096  # bytes that are kept of what is dropped: a blank line may be cut in two
_BLANK = re.compile(rb"\n[ \t\r\f\v]*\n")


@dataclass(frozen=True)
class Place:
    """Where in a file a block ends.

    Args:
        offset: bytes from the file's beginning, unpacked.
        line: the number of the line that begins there, from 1.
        checksum: CRC-32 of what comes before.
        raw: bytes of the file as stored that have been read, a little more than needed.
    """

    offset: int = 0
    line: int = 1
    checksum: int = 0
    raw: int = 0


@dataclass(frozen=True)
class Block:
    """Some whole documents.

    Args:
        data: their bytes; empty where ``too_long``.
        line: the number of the first line.
        end: where the block ends.
        too_long: one document of more than :data:`LONGEST` bytes, which were not kept.
    """

    data: bytes
    line: int
    end: Place
    too_long: bool = False


_UNREAD = {b"BZh": "bzip2", b"\xfd7zX": "xz", b"PK\x03\x04": "zip", b"PAR1": "Parquet"}


def unit(form: str, document: str) -> str:
    """Return what a document is in a file: ``paragraph``, ``line`` or ``file``.

    Args:
        form: the file's (``paddle_stacks.jobs.corpus.Source.format``).
        document: what it is in plain text.
    """
    return {"jsonl": "line", "document": "file"}.get(form, document)


class Reader:
    """Reads one file from a place on.

    Args:
        source: the file.
        document: of text: ``paragraph`` (up to a blank line), ``line`` or ``file``.

    Attributes:
        raw: bytes of the file as stored that have been read.
    """

    def __init__(self, source: Source, document: str) -> None:
        self._source = source
        self._unit = _UNITS[unit(source.format, document)]
        self._opened = sys.stdin.buffer if source.path == STDIN else open(source.path, "rb")  # noqa: SIM115, PTH123 (closed by close)
        self._hashed = _Hashed(self._opened)
        self._stream = _unpacked(io.BufferedReader(self._hashed, BLOCK), source.path)

    @property
    def raw(self) -> int:
        """Bytes of the file as stored that have been read."""
        return self._hashed.count

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file as stored, after its last block."""
        while self._hashed.read(BLOCK):
            pass  # what follows the packed stream's end
        return self._hashed.digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def blocks(self, start: Place) -> Iterator[Block]:
        """Yield the blocks from a place on.

        Raises:
            RequestError: the packed stream is damaged, or what comes before the place is
                not what it was.
        """
        self._skip(start)
        place, buffer = start, bytearray()
        dropped_from = 0  # the line where a document begins that is too long to be kept
        while True:
            more = self._read(BLOCK)
            buffer += more
            if dropped_from:
                cut = self._unit.first(buffer)
                size = cut or (max(0, len(buffer) - _TAIL) if more else len(buffer))
                place = self._after(place, buffer[:size])
                del buffer[:size]
                if more and not cut:
                    continue
                yield Block(b"", dropped_from, place, too_long=True)
                dropped_from = 0
            cut = self._unit.last(buffer) if more else len(buffer)
            if cut:
                data, line = bytes(buffer[:cut]), place.line
                del buffer[:cut]
                place = self._after(place, data)
                yield Block(data, line, place)
            elif len(buffer) > LONGEST + BLOCK:
                dropped_from = place.line
            if not more:
                return

    def _after(self, place: Place, data: bytes | bytearray) -> Place:
        return Place(
            place.offset + len(data),
            place.line + data.count(b"\n"),
            zlib.crc32(data, place.checksum),
            self.raw,
        )

    def _skip(self, start: Place) -> None:
        left, checksum = start.offset, 0
        while left:
            data = self._read(min(left, BLOCK))
            if not data:
                break
            checksum = zlib.crc32(data, checksum)
            left -= len(data)
        if left or checksum != start.checksum:
            raise RequestError(
                "the file is not what it was when the preparation began",
                where=self._source.path,
                remedy="--force begins anew",
            )

    def _read(self, size: int) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
            raise RequestError(
                f"it cannot be read to its end: {error}",
                where=f"{self._source.path}, after {self.raw} bytes",
                remedy="is it whole? gzip -t or zstd -t tells",
            ) from error
        return data


class _Hashed(io.RawIOBase):
    """A file that is hashed and counted as it is read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self.digest.update(data)
        self.count += len(data)
        return len(data)


def _unpacked(stream: io.BufferedReader, name: str) -> Any:
    """Return the stream unpacked; its first bytes say how, and not its name."""
    start = stream.peek(4)[:4]
    if start[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=stream)
    if start == b"\x28\xb5\x2f\xfd":
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")
    for magic, kind in _UNREAD.items():
        if start.startswith(magic):
            raise RequestError(
                f"it is packed as {kind}, which is not read here",
                where=name,
                remedy="plain, gzip or zstd; or unpack it into a pipe: … | prepare --input -",
            )
    return stream


@dataclass(frozen=True)
class _Unit:
    """Where a buffer can be cut: how many bytes end with a whole document, 0 for nowhere.

    Args:
        first: after the first document.
        last: after the last one.
    """

    first: Callable[[bytearray], int]
    last: Callable[[bytearray], int]


def _first_paragraph(data: bytearray) -> int:
    blank = _BLANK.search(data)
    return blank.end() if blank else 0


def _last_paragraph(data: bytearray) -> int:
    plain, returned = data.rfind(b"\n\n"), data.rfind(b"\n\r\n")
    if plain < 0 and returned < 0:
        return max((blank.end() for blank in _BLANK.finditer(data)), default=0)
    return max(plain + 2 if plain >= 0 else 0, returned + 3 if returned >= 0 else 0)


_UNITS = {
    "line": _Unit(lambda data: data.find(b"\n") + 1, lambda data: data.rfind(b"\n") + 1),
    "paragraph": _Unit(_first_paragraph, _last_paragraph),
    "file": _Unit(lambda data: 0, lambda data: 0),
}

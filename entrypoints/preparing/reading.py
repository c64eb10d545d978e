"""Reading of plain and compressed text files in blocks of complete documents."""

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

__all__ = ["BLOCK", "LONGEST", "Block", "Position", "Reader", "unit"]

BLOCK = 256 * 1024  # bytes per read, and the minimum for a worker
LONGEST = 64 * 1024 * 1024  # maximum bytes of a document; bounds the memory
_TAIL = 4096  # bytes to keep of dropped data, because a blank line may cross a boundary
_BLANK = re.compile(rb"\n[ \t\r\f\v]*\n")


@dataclass(frozen=True)
class Position:
    """The position of a block's end in a file.

    Args:
        offset: uncompressed bytes from the start of the file.
        line: the number of the next line, from 1.
        checksum: CRC-32 of the previous data.
        raw: bytes of the stored file that have been read, possibly a little more than needed.
    """

    offset: int = 0
    line: int = 1
    checksum: int = 0
    raw: int = 0


@dataclass(frozen=True)
class Block:
    """Complete documents.

    Args:
        data: their bytes; empty if ``too_long``.
        line: the number of the first line.
        end: the position of its end.
        too_long: whether it is a single document of more than :data:`LONGEST` bytes, which
            was dropped.
    """

    data: bytes
    line: int
    end: Position
    too_long: bool = False


_UNREAD = {b"BZh": "bzip2", b"\xfd7zX": "xz", b"PK\x03\x04": "zip", b"PAR1": "Parquet"}


def unit(form: str, document: str) -> str:
    """Return the unit of a document in a file: ``paragraph``, ``line`` or ``file``.

    Args:
        form: the file's format (``paddle_stacks.jobs.corpus.Source.format``).
        document: the unit in plain text.
    """
    return {"jsonl": "line", "document": "file"}.get(form, document)


class Reader:
    """Reads one file from a place on.

    Args:
        source: the file.
        document: the unit of plain text: ``paragraph`` (up to a blank line), ``line`` or
            ``file``.

    Attributes:
        raw: bytes of the stored file that have been read.
    """

    def __init__(self, source: Source, document: str) -> None:
        self._source = source
        self._unit = _UNITS[unit(source.format, document)]
        self._opened = sys.stdin.buffer if source.path == STDIN else open(source.path, "rb")  # noqa: SIM115, PTH123 (closed by close)
        self._hashed = _Hashed(self._opened)
        self._stream = _unpacked(io.BufferedReader(self._hashed, BLOCK), source.path)

    @property
    def raw(self) -> int:
        """Bytes of the stored file that have been read."""
        return self._hashed.count

    def sha256(self) -> str:
        """Return the SHA-256 of the stored file, after its last block."""
        while self._hashed.read(BLOCK):
            pass  # data after the end of the compressed stream
        return self._hashed.digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def blocks(self, start: Position) -> Iterator[Block]:
        """Yield the blocks from a place on.

        Raises:
            RequestError: the compressed stream is damaged, or the data before the place is
                changed.
        """
        self._skip(start)
        position, buffer = start, bytearray()
        dropped_from = 0  # the line where a document begins that is too long to be kept
        while True:
            more = self._read(BLOCK)
            buffer += more
            if dropped_from:
                cut = self._unit.first(buffer)
                size = cut or (max(0, len(buffer) - _TAIL) if more else len(buffer))
                position = self._after(position, buffer[:size])
                del buffer[:size]
                if more and not cut:
                    continue
                yield Block(b"", dropped_from, position, too_long=True)
                dropped_from = 0
            cut = self._unit.last(buffer) if more else len(buffer)
            if cut:
                data, line = bytes(buffer[:cut]), position.line
                del buffer[:cut]
                position = self._after(position, data)
                yield Block(data, line, position)
            elif len(buffer) > LONGEST + BLOCK:
                dropped_from = position.line
            if not more:
                return

    def _after(self, position: Position, data: bytes | bytearray) -> Position:
        return Position(
            position.offset + len(data),
            position.line + data.count(b"\n"),
            zlib.crc32(data, position.checksum),
            self.raw,
        )

    def _skip(self, start: Position) -> None:
        left, checksum = start.offset, 0
        while left:
            data = self._read(min(left, BLOCK))
            if not data:
                break
            checksum = zlib.crc32(data, checksum)
            left -= len(data)
        if left or checksum != start.checksum:
            raise RequestError(
                "the file has changed since the preparation started",
                where=self._source.path,
                remedy="start again with --force",
            )

    def _read(self, size: int) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
            raise RequestError(
                f"the file cannot be read completely: {error}",
                where=f"{self._source.path}, after {self.raw} bytes",
                remedy="check the file with gzip -t or zstd -t",
            ) from error
        return data


class _Hashed(io.RawIOBase):
    """A file with a digest and a count of the read bytes."""

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
    """Return the uncompressed stream; the format is detected by its first bytes."""
    start = stream.peek(4)[:4]
    if start[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=stream)
    if start == b"\x28\xb5\x2f\xfd":
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")
    for magic, kind in _UNREAD.items():
        if start.startswith(magic):
            raise RequestError(
                f"the compression {kind} is not supported",
                where=name,
                remedy="use plain text, gzip or zstd, or a pipe: … | prepare --input -",
            )
    return stream


@dataclass(frozen=True)
class _Unit:
    """Positions to cut a buffer: numbers of bytes that end with a complete document, or 0.

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

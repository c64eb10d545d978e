"""A reader of the values in a JSON array of any size, one after the other."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["ArrayError", "starts_array", "values"]

_CHUNK = 2**20  # bytes
_SPACE = re.compile(r"[ \t\r\n]*")


class ArrayError(ValueError):
    """The file is not a JSON array from here on.

    Args:
        reason: why.
        line: where, from 1.
    """

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


def starts_array(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a JSON array."""
    return head.lstrip()[:1] == b"["


def values(stream: IO[bytes], longest: int) -> Iterator[tuple[int, Any]]:
    """Yield the line and the value of each element.

    Args:
        stream: of a file whose first character is ``[``.
        longest: characters that an element may have.

    Raises:
        ArrayError: the text is not a JSON array, or an element is too long.
    """
    reader = _Reader(stream)
    if reader.next_character() != "[":
        raise ArrayError("the array does not start with [", reader.line)
    reader.skip(1)
    if reader.next_character() == "]":
        reader.skip(1)
    else:
        while True:
            reader.next_character()
            yield reader.line, reader.value(longest)
            mark = reader.next_character()
            if mark not in (",", "]"):
                if not mark:
                    raise ArrayError("the array ends before its closing bracket", reader.line)
                raise ArrayError(f'not JSON: expected "," or "]", got "{mark}"', reader.line)
            reader.skip(1)
            if mark == "]":
                break
    if reader.next_character():
        raise ArrayError("there is text after the array's closing bracket", reader.line)


class _Reader:
    """The text of a stream, of which no more is kept than the current element needs."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._json = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._ended = False
        self.line = 1

    def next_character(self) -> str:
        """Return the next character that is not a space; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self.skip(space.end() - self._at if space else 0)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill(_CHUNK):
                return ""

    def skip(self, count: int) -> None:
        """Move on."""
        self.line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def value(self, longest: int) -> Any:
        """Return the value that begins here, and move behind it."""
        chunk = _CHUNK
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # It may end behind what has been read.
                if len(self._text) - self._at > longest:
                    raise ArrayError("an element is longer than 16 MiB", self.line) from None
                if self._fill(chunk):
                    chunk *= 2
                    continue
                line = self.line + self._text.count("\n", self._at, error.pos)
                raise ArrayError(f"not JSON: {error.msg}", line) from None
            except RecursionError:
                raise ArrayError("nested too deeply", self.line) from None
            except ValueError:
                raise ArrayError("a number has too many digits", self.line) from None
            self.skip(end - self._at)
            return value

    def _fill(self, size: int) -> bool:
        """Read on; return whether there was more."""
        if self._ended:
            return False
        data = self._stream.read(size)
        self._ended = not data
        try:
            text = self._decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            line = self.line + self._text.count("\n", self._at)
            raise ArrayError(f"not UTF-8: byte 0x{byte:02x}", line) from None
        self._text = self._text[self._at :] + text
        self._at = 0
        return bool(text) or not self._ended

"""Reading and writing of a corpus: the index file and the token file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.corpus import HEADER, ITEMS, MAGIC, Pair, index_path, tokens_path

__all__ = ["lengths", "tokens", "write_index"]

_CHUNK = 1 << 20  # documents per chunk
_TYPES = {8: np.uint16, 4: np.int32}


def write_index(path: Path, sizes: Path, code: int) -> None:
    """Write the index of a corpus in which every document is one sequence.

    Args:
        path: the index; flushed to the disk.
        sizes: the file of lengths, int32.
        code: the type of a token.
    """
    count = sizes.stat().st_size // 4
    with path.open("wb") as stream:
        stream.write(HEADER.pack(MAGIC, 1, code, count, count + 1))
        for part in _chunks(sizes, count):
            stream.write(part.tobytes())
        position = 0
        for part in _chunks(sizes, count):
            ends = position + np.cumsum(part, dtype=np.int64) * ITEMS[code]
            stream.write((ends - part.astype(np.int64) * ITEMS[code]).tobytes())
            position = int(ends[-1])
        for first in range(0, count + 1, _CHUNK):
            last = min(first + _CHUNK, count + 1)
            stream.write(np.arange(first, last, dtype=np.int64).tobytes())
        stream.flush()
        os.fsync(stream.fileno())


def _chunks(sizes: Path, count: int) -> Any:
    with sizes.open("rb") as stream:
        for first in range(0, count, _CHUNK):
            yield np.frombuffer(stream.read(4 * min(_CHUNK, count - first)), dtype=np.int32)


def lengths(pair: Pair) -> Any:
    """Return the tokens of each document: int32 [documents], read as needed.

    Upstream's split and training count sequences, which are the documents here.
    """
    sequences = (
        index_path(pair.prefix).stat().st_size - HEADER.size - 8 * (pair.documents + 1)
    ) // 12
    return np.memmap(index_path(pair.prefix), np.int32, "r", offset=HEADER.size, shape=(sequences,))


def check(pair: Pair) -> None:
    """Check that the entries of an index are contiguous and within the tokens.

    Upstream's C++ code does not check lengths and positions, and would read out of bounds.

    Raises:
        RequestError: an entry is invalid.
    """
    path = index_path(pair.prefix)
    sizes = lengths(pair)
    count = len(sizes)
    if not count:
        return
    places = np.memmap(path, np.int64, "r", offset=HEADER.size + 4 * count, shape=(count,))
    documents = np.memmap(
        path, np.int64, "r", offset=HEADER.size + 12 * count, shape=(pair.documents + 1,)
    )
    position, fault = 0, ""
    for first in range(0, count, _CHUNK):
        part = sizes[first : first + _CHUNK].astype(np.int64)
        ends = position + np.cumsum(part) * ITEMS[pair.code]
        if (part < 0).any():
            fault = f"sequence {first + int((part < 0).argmax())} has a negative length"
        elif (wrong := places[first : first + _CHUNK] != ends - part * ITEMS[pair.code]).any():
            fault = f"sequence {first + int(wrong.argmax())} does not follow the previous one"
        if fault:
            break
        position = int(ends[-1])
    for first in range(0, pair.documents, _CHUNK):
        part = documents[first : first + _CHUNK + 1]
        if (np.diff(part) < 0).any() or part[0] < 0 or part[-1] > count:
            fault = fault or "its documents are not in the order of its sequences"
    if fault:
        raise RequestError(
            f"the index is damaged: {fault}",
            where=str(path),
            remedy="copy both files completely, or prepare the corpus again",
        )


def tokens(pair: Pair, document: int, most: int) -> list[int]:
    """Return the first tokens of a document, at most ``most``."""
    sizes = lengths(pair)
    start = int(sizes[:document].sum(dtype=np.int64))
    mapped = np.memmap(tokens_path(pair.prefix), _TYPES[pair.code], "r")
    ids: list[int] = mapped[start : start + min(int(sizes[document]), most)].tolist()
    return ids

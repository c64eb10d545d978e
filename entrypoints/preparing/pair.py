"""The pair of files itself: the index is written from the lengths, and both are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.corpus import HEADER, ITEMS, MAGIC, Pair, index_path, tokens_path

__all__ = ["lengths", "tokens", "write_index"]

_AT_ONCE = 1 << 20  # documents whose numbers are in memory at one time
_TYPES = {8: np.uint16, 4: np.int32}


def write_index(path: Path, sizes: Path, code: int) -> None:
    """Write the index of a corpus in which every document is one sequence.

    Args:
        path: the index, on the disk when this returns.
        sizes: the file of lengths, int32.
        code: the type of a token.
    """
    count = sizes.stat().st_size // 4
    with path.open("wb") as stream:
        stream.write(HEADER.pack(MAGIC, 1, code, count, count + 1))
        for part in _chunks(sizes, count):
            stream.write(part.tobytes())
        place = 0
        for part in _chunks(sizes, count):
            ends = place + np.cumsum(part, dtype=np.int64) * ITEMS[code]
            stream.write((ends - part.astype(np.int64) * ITEMS[code]).tobytes())
            place = int(ends[-1])
        for first in range(0, count + 1, _AT_ONCE):
            last = min(first + _AT_ONCE, count + 1)
            stream.write(np.arange(first, last, dtype=np.int64).tobytes())
        stream.flush()
        os.fsync(stream.fileno())


def _chunks(sizes: Path, count: int) -> Any:
    with sizes.open("rb") as stream:
        for first in range(0, count, _AT_ONCE):
            yield np.frombuffer(stream.read(4 * min(_AT_ONCE, count - first)), dtype=np.int32)


def lengths(pair: Pair) -> Any:
    """Return the tokens of each document: int32 [documents], read as needed.

    Upstream's split, and its training, count sequences; here they are the documents.
    """
    sequences = (
        index_path(pair.prefix).stat().st_size - HEADER.size - 8 * (pair.documents + 1)
    ) // 12
    return np.memmap(index_path(pair.prefix), np.int32, "r", offset=HEADER.size, shape=(sequences,))


def check(pair: Pair) -> None:
    """Check that every entry of an index points into its tokens, one after the other.

    Upstream's C++ takes lengths and places as they are, and would read beyond the tokens.

    Raises:
        RequestError: an entry does not.
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
    place, fault = 0, ""
    for first in range(0, count, _AT_ONCE):
        part = sizes[first : first + _AT_ONCE].astype(np.int64)
        ends = place + np.cumsum(part) * ITEMS[pair.code]
        if (part < 0).any():
            fault = f"sequence {first + int((part < 0).argmax())} has a negative length"
        elif (wrong := places[first : first + _AT_ONCE] != ends - part * ITEMS[pair.code]).any():
            fault = f"sequence {first + int(wrong.argmax())} does not begin where the last one ends"
        if fault:
            break
        place = int(ends[-1])
    for first in range(0, pair.documents, _AT_ONCE):
        part = documents[first : first + _AT_ONCE + 1]
        if (np.diff(part) < 0).any() or part[0] < 0 or part[-1] > count:
            fault = fault or "its documents are not in the order of its sequences"
    if fault:
        raise RequestError(
            f"the index is damaged: {fault}",
            where=str(path),
            remedy="copy both files whole, or prepare the corpus again",
        )


def tokens(pair: Pair, document: int, most: int) -> list[int]:
    """Return the first tokens of a document, ``most`` at the most."""
    sizes = lengths(pair)
    start = int(sizes[:document].sum(dtype=np.int64))
    mapped = np.memmap(tokens_path(pair.prefix), _TYPES[pair.code], "r")
    ids: list[int] = mapped[start : start + min(int(sizes[document]), most)].tolist()
    return ids

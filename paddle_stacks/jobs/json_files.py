"""JSON that somebody else may have written: read with one kind of error, whatever is wrong.

Python's own reader has four: what is no JSON, no UTF-8, nested too deeply, and a number of
more digits than it likes. Standard library only: the host and the containers both import
this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paddle_stacks.errors import RequestError

__all__ = ["LARGEST", "is_below", "parse", "read_object", "shards"]

_AGAIN = "get the file again from where it came; a model: ./inv fetch NAME --force"

LARGEST = 256 * 2**20
"""Bytes of a file that is read as a whole; the tokenizers of large vocabularies have 30 MB."""


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is none, for whatever reason.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_object(
    path: Path, *, what: str = "it is not JSON", remedy: str = _AGAIN
) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        what: the fault, if it is none; the reason is added.
        remedy: what to do about it.

    Raises:
        RequestError: it is missing, cannot be read, or is no object.
    """
    where = str(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST // 2**20} MiB")
        text = path.read_text(encoding="utf-8")
        value = parse(text)
        if "\\ud" in text.lower():
            # Half of a surrogate pair is a string to Python, and cannot be written again.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except FileNotFoundError:
        raise RequestError("the file is missing", where=where, remedy=remedy) from None
    except OSError as error:
        fault = f"it cannot be read: {error.strerror}"
        raise RequestError(fault, where=where, remedy=remedy) from None
    except ValueError as error:
        raise RequestError(f"{what}: {error}", where=where, remedy=remedy) from None
    if not isinstance(value, dict):
        raise RequestError(f"{what}: it is no object", where=where, remedy=remedy)
    return value


def shards(index: Path, *, remedy: str = _AGAIN) -> dict[str, str]:
    """Return the file of each weight from the index of a model that is in several files.

    Args:
        index: a ``….index.json``.
        remedy: what to do if it is damaged.

    Raises:
        RequestError: it is no index, or names files outside of its folder.
    """
    what = "the index of the shards is damaged"
    found = read_object(index, what=what, remedy=remedy).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise RequestError(f"{what}: it names no files", where=str(index), remedy=remedy)
    odd = sorted({name for name in map(str, found.values()) if not _is_plain(name)})
    if odd or not all(isinstance(name, str) for name in found.values()):
        shown = ", ".join(name[:80] for name in odd[:5]) or "what is no name"
        raise RequestError(
            f"the index of the shards names files outside of its folder: {shown}",
            where=str(index),
            remedy=remedy,
        )
    return found


def is_below(name: str) -> bool:
    """Return whether a path of a manifest is that of a file in its folder or below."""
    return all(map(_is_plain, name.split("/"))) and len(name) < 4096


def _is_plain(name: str) -> bool:
    """Return whether a name is that of a file in this very folder."""
    return (
        0 < len(name.encode("utf-8", "replace")) <= 255
        and name not in (".", "..")
        and not set(name) & {"/", "\\", "\0"}
    )

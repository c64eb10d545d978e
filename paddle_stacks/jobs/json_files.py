"""JSON files from other programs, read with one kind of error.

Python raises four kinds: for invalid JSON, invalid UTF-8, deep nesting, and numbers with too
many digits. Standard library only, because the host and the containers import this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paddle_stacks.errors import RequestError

__all__ = ["LARGEST", "is_below", "parse", "read_object", "shards"]

_AGAIN = "get the file again from its source; for a model: ./inv fetch NAME --force"

LARGEST = 256 * 2**20
"""Maximum bytes of a file; tokenizers with large vocabularies have 30 MB."""


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not valid JSON.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_object(
    path: Path, *, message: str = "the file is not JSON", remedy: str = _AGAIN
) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        message: the error if it is not; a reason is added.
        remedy: how to repair it.

    Raises:
        RequestError: the file is missing, cannot be read, or is not an object.
    """
    where = str(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST // 2**20} MiB")
        text = path.read_text(encoding="utf-8")
        value = parse(text)
        if "\\ud" in text or "\\uD" in text:
            # Half of a surrogate pair is a string to Python, and cannot be written again.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except FileNotFoundError:
        raise RequestError("the file is missing", where=where, remedy=remedy) from None
    except OSError as error:
        fault = f"the file cannot be read: {error.strerror}"
        raise RequestError(fault, where=where, remedy=remedy) from None
    except ValueError as error:
        raise RequestError(f"{message}: {error}", where=where, remedy=remedy) from None
    if not isinstance(value, dict):
        raise RequestError(f"{message}: it is not an object", where=where, remedy=remedy)
    return value


def shards(index: Path, *, remedy: str = _AGAIN) -> dict[str, str]:
    """Return the file of each weight from the index of a model in several files.

    Args:
        index: a ``….index.json``.
        remedy: how to repair it.

    Raises:
        RequestError: it is not an index, or names files outside of its folder.
    """
    message = "the index of the shards is damaged"
    files = read_object(index, message=message, remedy=remedy).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise RequestError(f"{message}: it names no files", where=str(index), remedy=remedy)
    odd = sorted({name for name in map(str, files.values()) if not _is_plain(name)})
    if odd or not all(isinstance(name, str) for name in files.values()):
        shown = ", ".join(name[:80] for name in odd[:5]) or "a value that is not a name"
        raise RequestError(
            f"the index of the shards names files outside of its folder: {shown}",
            where=str(index),
            remedy=remedy,
        )
    return files


def is_below(name: str) -> bool:
    """Return whether a path of a manifest stays below its folder."""
    return all(map(_is_plain, name.split("/"))) and len(name) < 4096


def _is_plain(name: str) -> bool:
    """Return whether a name is a file name without a folder."""
    return (
        0 < len(name.encode("utf-8", "replace")) <= 255
        and name not in (".", "..")
        and not set(name) & {"/", "\\", "\0"}
    )

"""What ``export --static`` writes beside a model's weights, checked without Paddle."""

from __future__ import annotations

import hashlib
from pathlib import Path

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files

__all__ = ["FORMAT", "MANIFEST", "PROGRAM", "check"]

PROGRAM, MANIFEST = "static.pdmodel", "static.json"
FORMAT = 1
"""Of the program's inputs and of the manifest; another one cannot be run."""


def check(folder: Path) -> None:
    """Refuse a folder that holds no static graph, or not all of one.

    The weights' sizes are compared, not their contents, which would take longer than
    loading them.

    Raises:
        RequestError: with what is wrong, and what to do.
    """
    again = f"export it again: ./inv export --model MODEL --static --output {folder} --force"
    path = folder / MANIFEST
    if not path.is_file():
        raise RequestError(
            f"{folder} holds no static graph: no {MANIFEST}",
            where=str(folder),
            remedy=f"./inv export --model {folder.name} --static --output exported/{folder.name},"
            " then --model with that folder",
        )
    manifest = json_files.read_object(path, message="not an export's manifest", remedy=again)
    try:
        version, files = manifest["format"], dict(manifest["files"])
        sums = {name: (int(about["size"]), str(about["sha256"])) for name, about in files.items()}
        if odd := [name for name in sums if not json_files.is_below(name)]:
            raise ValueError(f"it names files outside of its folder: {odd[0][:80]}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        fault = f"not an export's manifest: {type(error).__name__}: {error}"
        raise RequestError(fault, where=str(path), remedy=again) from None
    if version != FORMAT:
        raise RequestError(
            f"a static graph of the format {version!r}, and this version runs {FORMAT}",
            where=str(path),
            remedy=again,
        )
    for name in (PROGRAM, "config.json"):
        if name not in sums:
            raise RequestError(f"the manifest has no {name}", where=str(path), remedy=again)
    for name, (size, digest) in sums.items():
        _check_file(folder / name, size, digest, again)


def _check_file(path: Path, size: int, digest: str, again: str) -> None:
    if not path.is_file():
        raise RequestError("the file is missing", where=str(path), remedy=again)
    actual = path.stat().st_size
    if actual != size:
        message = f"it has {actual} bytes, and had {size} when it was exported"
        raise RequestError(message, where=str(path), remedy=again)
    if path.suffix in (".safetensors", ".pdparams"):
        return
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        message = "it is not what was exported: its SHA-256 is another"
        raise RequestError(message, where=str(path), remedy=again)

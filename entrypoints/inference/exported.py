"""The files that ``export --static`` writes beside a model's weights; checked without Paddle."""

from __future__ import annotations

from pathlib import Path

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.files import sha256_of

__all__ = ["FORMAT", "MANIFEST", "PROGRAM", "check"]

PROGRAM, MANIFEST = "static.pdmodel", "static.json"
FORMAT = 1
"""Version of the program's inputs and of the manifest; others cannot be run."""


def check(folder: Path) -> None:
    """Check that a folder holds a complete static graph.

    Only the sizes of the weights are compared: hashing them would take longer than loading.

    Raises:
        RequestError: files are missing, damaged or of another version.
    """
    again = f"export it again: ./inv export --model MODEL --static --output {folder} --force"
    path = folder / MANIFEST
    if not path.is_file():
        raise RequestError(
            f"{folder} has no static graph: {MANIFEST} is missing",
            where=str(folder),
            remedy=f"./inv export --model {folder.name} --static --output exported/{folder.name},"
            " then --model with that folder",
        )
    manifest = json_files.read_object(path, message="not an export's manifest", remedy=again)
    try:
        version, files = manifest["format"], dict(manifest["files"])
        sums = {name: (int(about["size"]), str(about["sha256"])) for name, about in files.items()}
        if odd := [name for name in sums if not json_files.is_below(name)]:
            raise ValueError(f"a file is outside of the folder: {odd[0][:80]}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        fault = f"not an export's manifest: {type(error).__name__}: {error}"
        raise RequestError(fault, where=str(path), remedy=again) from None
    if version != FORMAT:
        raise RequestError(
            f"the static graph has format {version!r}, expected {FORMAT}",
            where=str(path),
            remedy=again,
        )
    for name in (PROGRAM, "config.json"):
        if name not in sums:
            raise RequestError(f"{name} is missing in the manifest", where=str(path), remedy=again)
    for name, (size, digest) in sums.items():
        _check_file(folder / name, size, digest, again)


def _check_file(path: Path, size: int, digest: str, again: str) -> None:
    if not path.is_file():
        raise RequestError("the file is missing", where=str(path), remedy=again)
    actual = path.stat().st_size
    if actual != size:
        message = f"the file has {actual} bytes, expected {size}"
        raise RequestError(message, where=str(path), remedy=again)
    if path.suffix in (".safetensors", ".pdparams"):
        return
    if sha256_of(path) != digest:
        message = "the file differs from what was exported: its SHA-256 does not match"
        raise RequestError(message, where=str(path), remedy=again)

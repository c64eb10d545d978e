"""The files in a model's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.files import sha256_of

__all__ = ["BASE", "copy_companions", "fingerprint", "weight_files", "write_json"]

BASE = "base.json"
"""In an adapter's folder: the model that it was trained on."""

_WEIGHTS = (".safetensors", ".pdparams", ".index.json")
_REWRITTEN = ("config.json", "paddle-stacks.json", "static.json", "static.pdmodel")


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of a model's weight files, in hexadecimal."""
    kinds = (".safetensors", ".pdparams")
    return sha256_of(*(path for path in sorted(folder.iterdir()) if path.name.endswith(kinds)))


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files: the only one, those in its index, or none.

    Raises:
        RequestError: the index is damaged, or a file in it is missing.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():  # transformers also prefers it
        return [single]
    if not index.is_file():
        return []
    remedy = "get the model again from its source: ./inv fetch NAME --force"
    files = [
        folder / name for name in sorted(set(json_files.shards(index, remedy=remedy).values()))
    ]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise RequestError([Problem(f"{name} is missing", str(folder), remedy) for name in missing])
    return files


def copy_companions(companions: tuple[Path, ...], part: Path) -> None:
    """Copy the files of a model other than weights: tokenizer, configuration, licence.

    Args:
        companions: folders and files to copy.
        part: the destination folder.
    """
    for place in companions:
        for path in sorted(place.iterdir()) if place.is_dir() else [place]:
            if path.is_file() and not _is_excluded(path.name):
                shutil.copyfile(path, part / path.name)


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Write a JSON file with an indent of two spaces and unescaped characters."""
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_excluded(name: str) -> bool:
    return name.startswith(".") or name in _REWRITTEN or name.endswith(_WEIGHTS)

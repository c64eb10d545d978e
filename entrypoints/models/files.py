"""The files in a model's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddle_stacks.jobs.files import sha256_of

__all__ = ["BASE", "copy_companions", "fingerprint", "write_json"]

BASE = "base.json"
"""In an adapter's folder: the model that it was trained on."""

_WEIGHTS = (".safetensors", ".pdparams", ".index.json")
_REWRITTEN = ("config.json", "paddle-stacks.json", "static.json", "static.pdmodel")


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of a model's weight files, in hexadecimal."""
    kinds = (".safetensors", ".pdparams")
    return sha256_of(*(path for path in sorted(folder.iterdir()) if path.name.endswith(kinds)))


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

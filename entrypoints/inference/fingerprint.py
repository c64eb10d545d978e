"""Fingerprints of everything that an answer depends on."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from entrypoints.inference.arguments import Options

__all__ = ["of_bytes", "of_folder", "of_run"]

_WHOLE = 16 * 2**20  # bytes; larger files are sampled
_BLOCK, _BLOCKS = 64 * 2**10, 64


def of_run(options: Options, model: Path, adapter: Path | None, content: bytes) -> dict[str, str]:
    """Return the fingerprints of a run with a file of prompts, by option.

    Args:
        options: of the run.
        model: the model's folder.
        adapter: the adapter's folder, or None.
        content: the prompts.
    """
    values = {
        "--input": of_bytes(content),
        "--model": of_folder(model),
        "--adapter": of_folder(adapter) if adapter else "none",
        "--system": of_bytes((options.system or "").encode()),
        "--raw": str(options.raw),
        "--stop": of_bytes("\0".join(options.stop).encode()),
        "--max-new-tokens": str(options.max_new_tokens),
    }
    if options.compute_dtype != "float32":  # keys that older partial outputs do not have
        values["--dtype"] = options.compute_dtype
    if options.engine != "dynamic":
        values["--engine"] = options.engine
    if options.precision is not None:
        values["--precision"] = options.precision
    if options.logprobs is not None:
        values["--logprobs"] = str(options.logprobs)
    words = {"greedy": "--decode"}
    sampling = asdict(options.sampling).items()
    return values | {
        words.get(key, "--" + key.replace("_", "-")): str(value) for key, value in sampling
    }


def of_folder(folder: Path) -> str:
    """Return a digest of the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(_file(path))
    return digest.hexdigest()


def of_bytes(content: bytes) -> str:
    """Return the digest of bytes."""
    return hashlib.sha256(content).hexdigest()


def _file(path: Path) -> bytes:
    """Return the digest of a file, or of evenly spaced blocks of a large one.

    Training changes every weight, so blocks distinguish models in a hundredth of the time.
    """
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as stream:
        if size <= _WHOLE:
            digest.update(stream.read())
        else:
            for block in range(_BLOCKS):
                stream.seek((size - _BLOCK) * block // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK))
    return digest.digest()

"""Checks of checkpoints, and their manifest.

``paddle-stacks.json`` lists every file of a model with its size and SHA-256, so that damage is
detected before a model is loaded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from entrypoints.models import safetensors_file
from entrypoints.models.files import write_json
from entrypoints.models.llama import architectures
from entrypoints.runtime.progress import in_mib
from paddle_stacks import __version__
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.files import sha256_of

__all__ = ["MANIFEST", "Manifest", "check", "problems_of", "read_manifest", "write_manifest"]

MANIFEST = "paddle-stacks.json"
INDEX = "model.safetensors.index.json"
_WEIGHTS = ("model.safetensors", INDEX, "model_state.pdparams", "model_state.pdparams.index.json")


@dataclass(frozen=True)
class Manifest:
    """The source and the files of a checkpoint.

    Args:
        model: its name.
        source: as in ``--from``.
        source_sha256: of the source's file; empty for several files.
        format: of the source: ``gguf``, ``huggingface``, ``paddlenlp`` or ``scratch``.
        version: of the tool that wrote it.
        created: the time, as ISO 8601 in UTC.
        files: by name: ``size`` in bytes and ``sha256``.
    """

    model: str
    source: str
    source_sha256: str
    format: str
    version: str
    created: str
    files: dict[str, dict[str, Any]]


def write_manifest(
    folder: Path, model: str, source: str, source_sha256: str, form: str
) -> Manifest:
    """Check the checkpoint in ``folder`` and write its manifest.

    Args:
        folder: the checkpoint.
        model: its name.
        source: as in ``--from``.
        source_sha256: of the source's file, or of the configuration of a new model.
        form: of the source; a new model has no weights.

    Raises:
        RequestError: files are missing or truncated.
    """
    check(folder, weights=form != "scratch")
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    paths = [folder / name for name in names if name.as_posix() != MANIFEST]
    report, done = in_mib("checksums", sum(p.stat().st_size for p in paths)), 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        report(done)

    files = {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": sha256_of(path, progress=progress),
        }
        for path in paths
    }
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    manifest = Manifest(model, source, source_sha256, form, __version__, created, files)
    write_json(folder / MANIFEST, asdict(manifest))
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """Return the folder's manifest, or None if it is missing or unreadable."""
    try:
        manifest = Manifest(**json_files.read_object(folder / MANIFEST))
        if all(
            {"size", "sha256"} <= entry.keys() and json_files.is_below(name)
            for name, entry in manifest.files.items()
        ):
            return manifest
    except (RequestError, TypeError, AttributeError):
        pass  # an unreadable manifest counts as missing
    return None


def problems_of(folder: Path, manifest: Manifest, sums: bool = True) -> list[Problem]:
    """Return the differences between the files in ``folder`` and its manifest.

    Args:
        folder: the checkpoint.
        manifest: of the checkpoint.
        sums: whether to compare contents, which reads all files, besides sizes.
    """
    problems = []
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(
                Problem(
                    "the file is missing",
                    str(path),
                    "fetch the model again with --force",
                )
            )
        elif path.stat().st_size != entry["size"]:
            fault = f"{path.stat().st_size} bytes, expected {entry['size']}"
            problems.append(Problem(fault, str(path), "fetch the model again with --force"))
        elif sums and (sha := sha256_of(path)) != entry["sha256"]:
            problems.append(
                Problem(
                    f"SHA-256 {sha}, expected {entry['sha256']}",
                    str(path),
                    "fetch the model again with --force",
                )
            )
    return problems


def check(folder: Path, *, weights: bool = True) -> None:
    """Check that a folder has everything that PaddleNLP needs to load a causal language model.

    Args:
        folder: the checkpoint.
        weights: whether weights are required.

    Raises:
        RequestError: files are missing or damaged; all faults at once.
    """
    where = str(folder)
    problems: list[Problem] = []
    config = _json(folder / "config.json", problems)
    if config is not None and "LlamaForCausalLM" not in architectures(config):
        kind = config.get("architectures") or config.get("model_type")
        problems.append(
            Problem(
                f"the model's architecture is {kind}, not LlamaForCausalLM",
                where,
                "choose a model with Llama's architecture, the only one supported",
            )
        )
    _json(folder / "tokenizer_config.json", problems)
    present = [name for name in _WEIGHTS if (folder / name).is_file()]
    if weights and not present:
        problems.append(
            Problem(
                f"no weights: none of {', '.join(_WEIGHTS)} exists",
                where,
                "fetch the model again with --force",
            )
        )
    for name in present:
        problems += _weights_problems(folder, name)
    if problems:
        raise RequestError(problems)


def _weights_problems(folder: Path, name: str) -> list[Problem]:
    problems: list[Problem] = []
    shards = [name]
    if name.endswith(".index.json"):
        try:
            shards = sorted(set(json_files.shards(folder / name).values()))
        except RequestError as error:
            return list(error.problems)
    for shard in shards:
        path = folder / shard
        if not path.is_file():
            problems.append(Problem("the file is missing", str(path), "get it again"))
        elif shard.endswith(".safetensors"):
            try:
                safetensors_file.read_header(path)
            except RequestError as error:
                problems += error.problems
    return problems


def _json(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    try:
        return json_files.read_object(path)
    except RequestError as error:
        problems += error.problems
        return None

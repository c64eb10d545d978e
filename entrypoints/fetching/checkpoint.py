"""What a whole checkpoint is, and the manifest that says so.

``paddle-stacks.json`` lists every file of a model with its size and its sum, so
that a model that lost a byte is noticed before it is loaded, not after.
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

__all__ = ["MANIFEST", "Manifest", "check", "problems_of", "read_manifest", "seal"]

MANIFEST = "paddle-stacks.json"
INDEX = "model.safetensors.index.json"
_WEIGHTS = ("model.safetensors", INDEX, "model_state.pdparams", "model_state.pdparams.index.json")


@dataclass(frozen=True)
class Manifest:
    """Where a checkpoint came from and what belongs to it.

    Args:
        model: its name.
        source: as it would be written behind ``--from``.
        source_sha256: of the source's file; empty where the source is many files.
        format: of the source: ``gguf``, ``huggingface``, ``paddlenlp`` or ``scratch``.
        version: of the tool that wrote it.
        created: when, as ISO 8601 in UTC.
        files: by name: ``size`` in bytes and ``sha256``.
    """

    model: str
    source: str
    source_sha256: str
    format: str
    version: str
    created: str
    files: dict[str, dict[str, Any]]


def seal(folder: Path, model: str, source: str, source_sha256: str, form: str) -> Manifest:
    """Check the checkpoint in ``folder`` and write its manifest.

    Args:
        folder: the checkpoint.
        model: its name.
        source: where it came from.
        source_sha256: of the source's file, or of the shape of a model from scratch.
        form: of the source; a model from scratch has no weights.

    Raises:
        RequestError: something is missing from it or truncated.
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
    """Return the folder's manifest, or None where there is none that can be read."""
    try:
        manifest = Manifest(**json_files.read_object(folder / MANIFEST))
        if all(
            {"size", "sha256"} <= entry.keys() and json_files.is_below(name)
            for name, entry in manifest.files.items()
        ):
            return manifest
    except (RequestError, TypeError, AttributeError):
        pass  # a manifest that cannot be read vouches for nothing
    return None


def problems_of(folder: Path, manifest: Manifest, sums: bool = True) -> list[Problem]:
    """Return how the files in ``folder`` differ from its manifest.

    Args:
        folder: the checkpoint.
        manifest: what belongs to it.
        sums: compare contents too, which reads every byte; otherwise sizes alone.
    """
    problems = []
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(
                Problem(
                    "the file is missing",
                    str(path),
                    "fetch the model again: --force replaces what is there",
                )
            )
        elif path.stat().st_size != entry["size"]:
            fault = f"{path.stat().st_size} bytes instead of {entry['size']}"
            problems.append(
                Problem(fault, str(path), "fetch the model again: --force replaces what is there")
            )
        elif sums and (sha := sha256_of(path)) != entry["sha256"]:
            problems.append(
                Problem(
                    f"sha256 {sha} instead of {entry['sha256']}",
                    str(path),
                    "fetch the model again: --force replaces what is there",
                )
            )
    return problems


def check(folder: Path, *, weights: bool = True) -> None:
    """Check that a folder has all that PaddleNLP needs to load a causal language model.

    Args:
        folder: the checkpoint.
        weights: whether it has to have weights.

    Raises:
        RequestError: it has not; every fault is named.
    """
    where = str(folder)
    problems: list[Problem] = []
    config = _json(folder / "config.json", problems)
    if config is not None and "LlamaForCausalLM" not in architectures(config):
        kind = config.get("architectures") or config.get("model_type")
        problems.append(
            Problem(
                f"the model is {kind}, not LlamaForCausalLM",
                where,
                "only Llama's architecture is supported: choose such a model",
            )
        )
    _json(folder / "tokenizer_config.json", problems)
    present = [name for name in _WEIGHTS if (folder / name).is_file()]
    if weights and not present:
        problems.append(
            Problem(
                f"no weights: none of {', '.join(_WEIGHTS)}",
                where,
                "fetch the model again: --force replaces what is there",
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

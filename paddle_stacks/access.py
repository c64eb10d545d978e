"""The paths of the workspace that a job's arguments and its configuration name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from paddle_stacks.jobs import upstream
from paddle_stacks.jobs.arguments import parser
from paddle_stacks.plan import mounts

__all__ = ["of"]

# The options whose values are read, of any job.
_READ = ("config", "input", "model", "adapter", "resume", "source", "corpus", "dataset")
_POSITIONAL = ("corpus", "dataset")
# The options of upstream's programs that name what they write.
_WRITTEN_FOLDERS = ("output_dir", "logging_dir", "output_path", "save_dir")
_WRITTEN_FILES = ("output_file",)
_PREFIXES = ("gguf:", "scratch:")
# What upstream's predictor writes where nobody says it.
_PREDICTOR_OUTPUT = "output.json"


def of(argv: Sequence[str], workspace: Path) -> mounts.Access:
    """Return what a job asks to see and to write.

    Args:
        argv: the job and its arguments, as the container gets them.
        workspace: on the host; its configurations are read.
    """
    arguments = parser(argv[0]).parse_args(list(argv[1:]))
    if argv[0] == "upstream":
        return _of_upstream(arguments, workspace)
    reads: dict[str, str] = {}
    for key in _READ:
        values = getattr(arguments, key, None)
        for value in values if isinstance(values, list) else [values]:
            if text := _path(value, workspace, named=key in ("model", "adapter")):
                reads[text] = key if key in _POSITIONAL else f"--{key}"
    config = getattr(arguments, "config", None)
    mentions = tuple(mounts.references(mounts.document(workspace / config))) if config else ()
    mentions = (*mentions, *(getattr(arguments, "set", None) or ()))
    if dataset := getattr(arguments, "dataset", None):
        mentions = (*mentions, dataset)  # weights and paths
    return mounts.Access(
        reads=reads,
        mentions=mentions,
        writes=_written_in_place(argv[0], arguments, workspace),
        outputs=_outputs(argv[0], arguments),
        keeps=getattr(arguments, "force", None) is False
        and not getattr(arguments, "benchmark", False),
    )


def _path(value: object, workspace: Path, *, named: bool) -> str:
    """Return a value as a path; empty where it is none, or a name in models/ or runs/."""
    text = str(value or "")
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    if text in ("", "-") or "://" in text:
        return ""
    if named and any((workspace / folder / text).exists() for folder in ("models", "runs")):
        return ""
    return text


def _outputs(job: str, arguments: argparse.Namespace) -> dict[str, str]:
    found = {}
    for key in ("output", "plot", "convert"):
        value = getattr(arguments, key, None)
        if value and value != "-":
            found[str(Path(value))] = f"--{key}"
    if job == "inspect" and not getattr(arguments, "plot", None):
        found[f"{Path(arguments.corpus)}.lengths.png"] = "--plot"
    return found


def _written_in_place(job: str, arguments: argparse.Namespace, workspace: Path) -> dict[str, str]:
    """Return the folder that a training writes its checkpoints to."""
    if not hasattr(arguments, "config") or getattr(arguments, "name", None) or job == "quantize":
        return {}
    document = mounts.document(workspace / arguments.config)
    output = document.get("output_dir")
    for change in getattr(arguments, "set", None) or ():
        key, _, value = change.partition("=")
        output = value if key.strip() == "output_dir" else output
    return {str(Path(output)): "output_dir"} if isinstance(output, str) and output else {}


def _of_upstream(arguments: argparse.Namespace, workspace: Path) -> mounts.Access:
    words = arguments.arguments
    found = upstream.options(
        arguments.script,
        words,
        lambda name: workspace / name if (workspace / name).is_file() else None,
    )
    values = tuple(mounts.references(list(found.values.values())))
    writes, outputs = {}, {}
    for key in _WRITTEN_FOLDERS:
        if isinstance(value := found.values.get(key), str) and value:
            writes[str(Path(value))] = f"--{key}"
    for key in _WRITTEN_FILES:
        value = found.values.get(key)
        if value is None and arguments.script.endswith("predictor.py"):
            value = _PREDICTOR_OUTPUT
        if isinstance(value, str) and value:
            outputs[str(Path(value))] = f"--{key}"
    return mounts.Access(mentions=(*words, *values), writes=writes, outputs=outputs, scratch=True)

"""The paths of the workspace that a job's options and its configuration name."""

from __future__ import annotations

from pathlib import Path

from paddle_stacks.jobs import upstream
from paddle_stacks.jobs.models import PATH_PREFIXES
from paddle_stacks.jobs.options import (
    READ,
    WRITE,
    DataOptions,
    FinetuneOptions,
    InferOptions,
    InspectOptions,
    PretrainOptions,
    QuantizeOptions,
    UpstreamOptions,
    specs,
)
from paddle_stacks.plan import mounts
from paddle_stacks.request import JobRequest

__all__ = ["of"]

# The options of upstream's programs that name what they write.
_WRITTEN_FOLDERS = ("output_dir", "logging_dir", "output_path", "save_dir")
_WRITTEN_FILES = ("output_file",)
# What upstream's predictor writes by default.
_PREDICTOR_OUTPUT = "output.json"


def of(request: JobRequest, workspace: Path) -> mounts.Access:
    """Return the paths that a job reads and writes.

    Args:
        request: the job.
        workspace: folder on the host.
    """
    options, config = request.options, request.config
    if isinstance(options, UpstreamOptions) and request.script is not None:
        return _of_script(request.script, options.arguments)
    reads: dict[str, str] = {}
    for spec in specs(type(options)):
        value = getattr(options, spec.name)
        for each in value if spec.repeatable else (value,):
            if spec.path == READ and (
                text := _path(each, workspace, named=spec.name in ("model", "adapter"))
            ):
                reads[text] = spec.flag or spec.name
    values = {key: config[key] for key in config.explicit} if config else {}
    mentions = list(mounts.references(values))
    if isinstance(options, DataOptions):
        mentions.append(options.dataset)  # weights and paths
    writes: dict[str, str] = {}
    if config and isinstance(options, (FinetuneOptions, PretrainOptions)) and not options.name:
        output = config["output_dir"]
        writes = {str(Path(output)): "output_dir"} if output else {}
    return mounts.Access(
        reads=reads,
        mentions=mentions,
        writes=writes,
        outputs=_outputs(request),
        keeps=getattr(options, "force", None) is False
        and not (isinstance(options, InferOptions) and options.benchmark),
    )


def _path(value: object, workspace: Path, *, named: bool) -> str:
    """Return a value as a path; empty if it is none, or a name in models/ or runs/."""
    text = str(value or "")
    for prefix in PATH_PREFIXES:
        text = text.removeprefix(prefix)
    if text in ("", "-") or "://" in text:
        return ""
    if named and any((workspace / folder / text).exists() for folder in ("models", "runs")):
        return ""
    return text


def _outputs(request: JobRequest) -> dict[str, str]:
    """Return the files and folders that a program of ours creates, with their options."""
    options = request.options
    outputs = {
        str(Path(value)): spec.flag
        for spec in specs(type(options))
        if spec.path == WRITE and (value := getattr(options, spec.name)) and value != "-"
    }
    if isinstance(options, InspectOptions) and not options.plot:
        outputs[f"{Path(options.corpus)}.lengths.png"] = "--plot"
    if isinstance(options, QuantizeOptions) and request.config and not options.output:
        outputs[str(Path(request.config["output_dir"]))] = "output_dir"
    return outputs


def _of_script(script: upstream.Options, words: tuple[str, ...]) -> mounts.Access:
    values = tuple(mounts.references(list(script.values.values())))
    writes, outputs = {}, {}
    for key in _WRITTEN_FOLDERS:
        if isinstance(value := script.values.get(key), str) and value:
            writes[str(Path(value))] = f"--{key}"
    for key in _WRITTEN_FILES:
        value = script.values.get(key)
        if value is None and script.script.endswith("predictor.py"):
            value = _PREDICTOR_OUTPUT
        if isinstance(value, str) and value:
            outputs[str(Path(value))] = f"--{key}"
    return mounts.Access(mentions=(*words, *values), writes=writes, outputs=outputs, scratch=True)

"""A job that is requested: its options, checked, and the configuration that they name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import quantizing, schema, upstream
from paddle_stacks.jobs import workspace as workspaces
from paddle_stacks.jobs.arguments import as_upstream, parse
from paddle_stacks.jobs.models import PATH_PREFIXES
from paddle_stacks.jobs.options import (
    OPTIONS,
    FinetuneOptions,
    InferOptions,
    NodeOptions,
    Options,
    PrepareOptions,
    PretrainOptions,
    QuantizeOptions,
    UpstreamOptions,
    node_problems,
    specs,
)

__all__ = ["JobRequest", "from_options", "from_words"]

# A job that is a script of upstream's with a configuration, on devices.
_SCRIPT_OF_QUANTIZE = "run_finetune.py"


@dataclass(frozen=True)
class JobRequest:
    """A job with everything that it was asked to do, checked and read once.

    Args:
        job: name of the job.
        options: of the program that runs: the job's own, or ``upstream``'s.
        config: the configuration of a program of ours; None if it has none.
        script: the options of upstream's script; None for a program of ours.
    """

    job: str
    options: Options
    config: schema.Config | None = None
    script: upstream.Options | None = None

    @property
    def program(self) -> str:
        """Name of the program that runs, which is not the job's if that is upstream's."""
        return self.options.job

    @property
    def argv(self) -> tuple[str, ...]:
        """The arguments of the image's entry point: the program and its command line."""
        return (self.program, *self.options.argv())

    @property
    def ranks(self) -> int:
        """Number of processes on each node."""
        return self.options.ranks if isinstance(self.options, NodeOptions) else 1

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.options.nodes if isinstance(self.options, NodeOptions) else 1

    @property
    def run(self) -> Path | None:
        """The folder of the run, relative to the workspace; None if the job has none."""
        options = self.options
        if isinstance(options, UpstreamOptions):
            return upstream.run_folder(options)
        if isinstance(options, (FinetuneOptions, PretrainOptions)) and self.config:
            return workspaces.run_folder(options.name, options.config, self.config["output_dir"])
        return None

    @property
    def reads_standard_input(self) -> bool:
        """Return whether the job reads from a terminal or a pipe."""
        options = self.options
        if isinstance(options, InferOptions):
            return options.chat or "-" in (options.prompt, options.input)
        return isinstance(options, PrepareOptions) and "-" in options.input


def from_words(
    job: str, words: Sequence[str], workspace: Path, backend: str, *, devices: bool = False
) -> JobRequest:
    """Return the request of a command line.

    Args:
        job: name of the job.
        words: its arguments.
        workspace: folder on the host; absolute paths are made relative to it.
        backend: the backend that the job will run on.
        devices: whether that backend has device nodes.

    Raises:
        RequestError: the options or the configuration are wrong. Reports all faults.
    """
    options = _relative_to(workspace, parse(OPTIONS[job], words, backend))
    return from_options(job, options, workspace, backend, devices=devices)


def from_options(
    job: str, options: Options, workspace: Path, backend: str, *, devices: bool = False
) -> JobRequest:
    """Return the request of checked options; arguments and errors as :func:`from_words`."""
    # Relative to where the command was given, so that messages name files as their user does.
    here = Path(os.path.relpath(workspace))
    if isinstance(options, QuantizeOptions):
        if not devices:
            return JobRequest(job, options, config=quantizing.load(options, here, backend))
        options = as_upstream(_SCRIPT_OF_QUANTIZE, options)
        options.check(backend)
    if isinstance(options, NodeOptions):
        # A container could get these from its environment; here there is no other source.
        problems = node_problems(options.nodes, options.master or "", options.rank)
        if problems:
            raise RequestError(problems)
    if isinstance(options, (FinetuneOptions, PretrainOptions)):
        config = schema.load(
            here / options.config,
            options.set,
            job=options.job,
            backend=backend,
            world=options.world,
        )
        return JobRequest(job, options, config=config)
    if isinstance(options, UpstreamOptions):

        def find(name: str) -> Path | None:
            return here / name if (here / name).is_file() else None

        script = upstream.options(options.script, options.arguments, find)
        return JobRequest(job, options, script=script)
    return JobRequest(job, options)


def _relative_to(workspace: Path, options: Options) -> Options:
    """Return the options with paths relative to the workspace, as the container sees them."""
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for spec in specs(type(options)):
        value = getattr(options, spec.name)
        if not spec.path or value is None:
            continue
        if spec.repeatable:
            values[spec.name] = tuple(_inside(text, workspace, problems) for text in value)
            continue
        kind = next((kind for kind in PATH_PREFIXES if str(value).startswith(kind)), "")
        path = _inside(str(value).removeprefix(kind), workspace, problems)
        values[spec.name] = type(value)(kind + path)
    if problems:
        raise RequestError(problems)
    return replace(options, **values)


def _inside(path: str, workspace: Path, problems: list[Problem]) -> str:
    """Return a path relative to the workspace; add a problem if it is outside of it."""
    if not path.startswith(("/", "..")):
        return path
    inside = os.path.relpath(workspace / path, workspace)
    if inside.startswith(".."):
        message = f"{path} is outside the workspace, which is all that a job sees"
        problems.append(Problem(message, str(workspace), "move or copy it there"))
    return inside

"""Checks that a backend can run a job, made before a container starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from paddle_stacks.dcu import capability
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import deprecated_flags, fused, parallelism, upstream
from paddle_stacks.jobs.options import NodeOptions, UpstreamOptions
from paddle_stacks.jobs.schema import Config
from paddle_stacks.plan import Backend
from paddle_stacks.request import JobRequest
from paddle_stacks.settings import Settings

__all__ = ["check"]


def check(
    request: JobRequest,
    settings: Settings,
    backend: Backend,
    devices: Sequence[int] = (),
    *,
    advice: str = "",
) -> None:
    """Check that a backend's devices can run a job, and that its layout is possible.

    Trainings and upstream's programs are checked. The container checks upstream's own
    configurations, which are not here.

    Args:
        request: the job.
        settings: of this command.
        backend: the backend that it runs on.
        devices: the devices that it uses; empty for all.
        advice: what to do if the job needs too much memory; empty for the default.

    Raises:
        RequestError: the backend cannot run it. Reports all reasons at once.
    """
    options = request.options
    if not isinstance(options, NodeOptions):
        return
    if isinstance(options, UpstreamOptions) and request.script is not None:
        script = request.script
        problems = _script_problems(options, script, settings, backend, advice)
        training = "predict" not in Path(script.script).parts and not script.on("do_ptq")
    elif request.config is not None and request.job != "quantize":
        script = _as_script(request.config, options.world)
        problems = upstream.layout_faults(script, options.world)
        training = True
    else:
        return
    if devices and len(devices) < options.ranks:
        message = f"the job needs {options.ranks} devices; --devices lists {len(devices)}"
        problems.append(Problem(message, "--devices", f"--devices 0-{options.ranks - 1}"))
    if backend.device == "gpu":
        problems += capability.problems(
            script,
            capability.detect(settings.host_root, devices),
            per_node=options.ranks,
            nodes=options.nodes,
            training=training,
            workspace=settings.workspace,
            remedy=advice,
            allow_bf16=options.allow_bf16,
        )
    if problems:
        raise RequestError(problems)


def _as_script(config: Config, world: int) -> upstream.Options:
    """Return a training's configuration as options, without those that have no effect."""
    options = parallelism.as_options(config)
    if world > 1 or config.schema.job != "finetune":
        return options
    # As upstream does: a single process ignores the parallel degrees.
    values = {k: v for k, v in options.values.items() if not k.endswith("_degree")}
    return replace(options, values=values | {"sharding": ""})


def _script_problems(
    options: UpstreamOptions,
    script: upstream.Options,
    settings: Settings,
    backend: Backend,
    advice: str,
) -> list[Problem]:
    """Return what is known to fail in one of upstream's programs."""
    words = options.arguments
    own = words[1:] if words and words[0].endswith(".json") else words
    problems = upstream.faults(script, own, world=options.world)
    if script.config is not None:
        problems += deprecated_flags.key_problems(
            [key for key in script.values if not script.where(key).startswith("--")],
            script.where,
        )
    problems += fused.problems(
        script,
        settings.workspace,
        on_dcu=bool(backend.devices),
        gpu=backend.device == "gpu",
        instead=advice,
        patched=not options.unpatched,
    )
    return problems

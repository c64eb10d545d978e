"""Checks before a container starts: those that its plan needs."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from paddle_stacks.dcu import capability
from paddle_stacks.dcu.cards import check_free
from paddle_stacks.errors import MachineError, Problem, RequestError
from paddle_stacks.jobs import (
    corpus,
    data_request,
    models,
    parallelism,
    pretraining,
    prompts,
    quantizing,
    records,
    sample_data,
    serving,
    upstream,
    workspace,
)
from paddle_stacks.jobs.datasets import Dataset
from paddle_stacks.ownership import may_write
from paddle_stacks.plan import Plan, backend
from paddle_stacks.provenance import attestation
from paddle_stacks.settings import Settings

if TYPE_CHECKING:
    from docker import DockerClient

    from paddle_stacks.jobs.options import (
        DataOptions,
        ExportOptions,
        FetchDataOptions,
        FetchOptions,
        FinetuneOptions,
        InferOptions,
        InspectOptions,
        PrepareOptions,
        PretrainOptions,
        QuantizeOptions,
        ServeOptions,
    )
    from paddle_stacks.jobs.schema import Config
    from paddle_stacks.request import JobRequest

__all__ = [
    "ARCHITECTURES",
    "check_image",
    "check_machine",
    "check_operators",
    "check_ports",
    "check_request",
    "check_verified",
    "check_workspace",
]

ARCHITECTURES = "paddle-stacks.ops.archs"
"""The label of an image with the architectures of its operators."""


# For the container's own files. The job checks the space for a model, whose size it knows.
_LEAST_FREE_BYTES = 2 * 2**30
_LOCK = ".lock"


def check_image(plan: Plan, client: DockerClient) -> None:
    """Check that the engine has the plan's image.

    Raises:
        MachineError: it does not.
    """
    import docker.errors

    try:
        client.images.get(plan.image)
    except docker.errors.ImageNotFound as error:
        message = f"the image {plan.image} does not exist"
        raise MachineError(message, remedy=plan.build_command) from error


def check_verified(plan: Plan, settings: Settings, client: DockerClient) -> str:
    """Return why the plan's image is not verified; empty if it is.

    Args:
        plan: the plan, whose image exists.
        settings: the folder of attestations, and whether one is required.
        client: a client of the engine.

    Raises:
        MachineError: the image is not verified, and the settings require it.
    """
    image_id = str(client.images.get(plan.image).id)
    why, where = _not_verified(settings, image_id)
    if why and settings.require_verified:
        remedy = f"{plan.verify_command}; or run without --require-verified"
        raise MachineError(f"{plan.image} is not verified: {why}", where=where, remedy=remedy)
    return why


def _not_verified(settings: Settings, image_id: str) -> tuple[str, str]:
    """Return why an image is not verified, and the file of its attestation."""
    folder = attestation.folder(settings)
    try:
        result = attestation.read(folder, image_id)
    except RequestError as error:
        return error.problems[0].what, error.problems[0].where
    where = str(attestation.path_of(folder, image_id))
    if result is None:
        return "its tests have not been run here", where
    if not result.verified:
        count = len(result.failed)
        return (
            f"{count} of its tests failed on {result.when}" if count else "no test was run",
            where,
        )
    return "", where


def check_machine(plan: Plan, settings: Settings) -> None:
    """Run the doctor's checks for a job, and check that the listed devices are free.

    Args:
        plan: the plan; without device nodes nothing is checked.
        settings: the host's root.

    Raises:
        MachineError: with one problem for each fault.
    """
    if not plan.devices:
        return
    from paddle_stacks import doctor

    machine = doctor.Machine(settings, backend.load(plan.backend, settings.root, plan.profile))
    problems = doctor.problems(machine, doctor.preflight(plan.backend, plan.job))
    if plan.cards and isinstance(machine.cards, MachineError):
        problems += machine.cards.problems
    elif plan.cards and not isinstance(machine.cards, MachineError):
        problems += check_free(plan.cards, machine.cards)
    if problems:
        raise MachineError(problems)


def check_operators(plan: Plan, settings: Settings, client: DockerClient) -> None:
    """Check that the image's operators are compiled for the devices.

    The doctor compares the devices with the architectures of a build; this compares them with
    the image that will run.

    Args:
        plan: the plan; without device nodes nothing is checked.
        settings: the host's root.
        client: a client of the engine.

    Raises:
        MachineError: they are not compiled for a device that the job can use.
    """
    if not plan.devices or plan.job == "fetch":
        return
    if backend.load(plan.backend, settings.root).device != "gpu":
        return  # simulated devices compute with the CPU
    label = (client.images.get(plan.image).labels or {}).get(ARCHITECTURES, "")
    cards = capability.detect(settings.host_root, plan.cards)
    if problems := capability.architecture_problems(label, cards, plan.image):
        raise MachineError(problems)


def check_ports(plan: Plan) -> None:
    """Check that the plan's published ports are free.

    Raises:
        MachineError: with one problem for each port in use.
    """
    problems = []
    for port in plan.ports:
        family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((port.address, port.number))
            except OSError as error:
                message = f"port {port.number} of {port.address} cannot be used: {error.strerror}"
                problems.append(Problem(message, plan.job, "use another port: --port N"))
    if problems:
        raise MachineError(problems)


def check_workspace(plan: Plan) -> None:
    """Check that the container's user can write to the workspace, and that the disk has space.

    Raises:
        MachineError: a folder belongs to another user, or the disk is full.
    """
    folders = [plan.workspace, *(plan.workspace / name for name in ("models", "runs"))]
    problems = [
        Problem(
            f"the job's user {plan.user} cannot write here",
            str(folder),
            f"sudo chown -R {plan.user} {folder}",
        )
        for folder in folders
        if folder.is_dir() and not may_write(folder, plan.user)
    ]
    free = shutil.disk_usage(plan.workspace).free
    if plan.job == "fetch" and free < _LEAST_FREE_BYTES:
        room = f"{free / 2**30:.1f} GiB free, at least {_LEAST_FREE_BYTES / 2**30:.0f} GiB required"
        problems.append(
            Problem(
                f"the disk is nearly full: {room}",
                str(plan.workspace),
                "free space, or set workspace to a folder on another disk",
            )
        )
    if problems:
        raise MachineError(problems)


def check_request(plan: Plan) -> None:
    """Check the files that the job's options and configuration name.

    Raises:
        RequestError: with one problem for each fault.
    """
    request = plan.request
    if request is None:
        return
    # Relative, so that messages name files as the user does.
    here = Path(os.path.relpath(plan.workspace))
    problems = _link_problems(here, request)
    for check in _CHECKS[request.program](request, here):
        problems += _problems(check)
    if request.run is not None:
        problems += _problems(partial(_check_idle, here / request.run))
    for secret in plan.secrets:
        if secret.name == "api_keys":
            problems += _problems(partial(serving.load_some, Path(str(secret.source))))
    if problems:
        raise RequestError(problems)


def _link_problems(here: Path, request: JobRequest) -> list[Problem]:
    """Return the links among the named files and folders that a container cannot follow.

    ``models/``, ``data/``, ``runs/`` and ``configs/`` may be links themselves.
    """
    folders = [here, *(here / name for name in ("configs", "data", "models", "runs"))]
    roots = [Path(os.path.realpath(root)) for root in folders]
    problems: list[Problem] = []
    for name in sorted(_possible_paths(request)):
        for path in (here / name, here / "models" / name, here / "runs" / name):
            if path in folders or not os.access(path, os.R_OK):
                continue
            own = _outside_problems(path, roots)
            inside = path.iterdir() if path.is_dir() and not own else ()
            problems += [*own, *(p for each in inside for p in _outside_problems(each, roots))]
    return list(dict.fromkeys(problems))


def _outside_problems(path: Path, roots: Sequence[Path]) -> list[Problem]:
    target = Path(os.path.realpath(path))
    inside = any(root == target or root in target.parents for root in roots)
    if inside or not os.access(path, os.F_OK):
        return []
    message = f"this is a link to {target}, outside the workspace, which is all that a job sees"
    return [Problem(message, str(path), f"rm {path} && cp -rL {target} {path}")]


def _possible_paths(request: JobRequest) -> set[str]:
    """Return the texts among the options, and in the configuration, that can name a path."""
    values: list[object] = []
    for value in vars(request.options).values():
        values += value if isinstance(value, tuple) else [value]
    if request.config:
        values += [request.config[key] for key in request.config.explicit]
    if request.script:
        values += request.script.values.values()
    texts = {str(value) for value in values if isinstance(value, (str, Path))}
    return {
        text
        for text in texts
        if 0 < len(text) < 200 and text.isprintable() and not text.startswith(("/", "."))
    }


# The checks of a program's files; each raises RequestError.
_Checks = Iterator[Callable[[], object]]


def _fetch_checks(request: JobRequest, here: Path) -> _Checks:
    options = cast("FetchOptions", request.options)

    def check_source() -> None:
        source = models.find(options.model, options.source, here).source
        if source.kind == models.SCRATCH:
            corpus.sources([source.value], here=here, texts_here=False)
        elif source.kind in ("gguf", "path") and not (here / source.value).exists():
            raise RequestError(
                "the model's source does not exist",
                where=str(here / source.value),
                remedy="--from PATH, which starts in the workspace; copy the model there",
            )

    yield check_source


def _fetch_data_checks(request: JobRequest, here: Path) -> _Checks:
    options = cast("FetchDataOptions", request.options)

    def check_source() -> None:
        entry = sample_data.find(options.data, here)
        if options.source:
            sample_data.local_files(entry, here / options.source)

    yield check_source


def _finetune_checks(request: JobRequest, here: Path) -> _Checks:
    options, config = cast("FinetuneOptions", request.options), cast("Config", request.config)

    def check_model() -> None:
        model = workspace.find_trained(config["model_name_or_path"], here)
        workspace.check_weights(model, options.allow_pickle)
        parallelism.check(config, model, options.world)

    yield check_model
    yield lambda: records.check(Dataset.from_config(config, here), dev=config["do_eval"])


def _pretrain_checks(request: JobRequest, here: Path) -> _Checks:
    options, config = cast("PretrainOptions", request.options), cast("Config", request.config)
    bases: list[Path] = []
    parts: list[corpus.Part] = []
    yield lambda: bases.append(workspace.find_model(config["model_name_or_path"], here))
    yield lambda: parts.extend(corpus.parts(config["input_dir"], here))
    if bases and config["continue_training"]:
        yield partial(workspace.check_weights, bases[0], options.allow_pickle)
    if bases and parts:
        yield partial(pretraining.check, config, bases[0], parts, options.world)


def _prepare_checks(request: JobRequest, here: Path) -> _Checks:
    options = cast("PrepareOptions", request.options)
    prefix = here / options.output
    yield partial(corpus.shares, options.split)
    yield partial(workspace.find_model, options.model, here)
    yield partial(corpus.sources, options.input, options.format, here, texts_here=False)
    yield partial(corpus.prefix_of, str(prefix) + "/" * options.output.endswith("/"))
    if prefix.name:
        yield partial(_check_idle, corpus.partial_folder(prefix))


def _inspect_checks(request: JobRequest, here: Path) -> _Checks:
    options = cast("InspectOptions", request.options)
    yield partial(corpus.shares, options.split)
    yield partial(corpus.parts, options.corpus, here)
    if options.model:
        yield partial(workspace.find_model, options.model, here)


def _data_checks(request: JobRequest, here: Path) -> _Checks:
    yield partial(data_request.check, cast("DataOptions", request.options), here)


def _quantize_checks(request: JobRequest, here: Path) -> _Checks:
    options, config = cast("QuantizeOptions", request.options), cast("Config", request.config)
    yield partial(quantizing.check, config, here, force=options.force)


def _export_checks(request: JobRequest, here: Path) -> _Checks:
    options = cast("ExportOptions", request.options)

    def check_model() -> None:
        model = workspace.find_trained(options.model, here)
        workspace.check_weights(model, options.allow_pickle)
        if options.merge:
            workspace.check_trainable(model)

    yield check_model
    if options.adapter:
        yield partial(workspace.find_adapter, options.adapter, here)


def _infer_checks(request: JobRequest, here: Path) -> _Checks:
    options = cast("InferOptions", request.options)
    yield partial(workspace.find_trained, options.model, here)
    if options.adapter:
        yield partial(workspace.find_adapter, options.adapter, here)
    if options.input and options.input != "-":
        yield partial(_check_prompts, here / options.input)


def _serve_checks(request: JobRequest, here: Path) -> _Checks:
    options = cast("ServeOptions", request.options)
    yield partial(workspace.find_model, options.model, here)
    if options.adapter:
        yield partial(workspace.find_adapter, options.adapter, here)


def _upstream_checks(request: JobRequest, here: Path) -> _Checks:
    script = cast("upstream.Options", request.script)
    if model := script.values.get("model_name_or_path"):
        # Its program for pretraining starts with random weights, unless it continues.
        needs_weights = script.script != "run_pretrain.py" or script.on("continue_training")
        yield partial(_check_script_model, str(model), here, weights=needs_weights)
    if data := script.values.get("dataset_name_or_path"):
        yield partial(records.check, here / str(data), dev=script.on("do_eval"), upstream=True)
    if data := script.values.get("input_dir"):
        yield partial(_check_corpus, here / str(data))


def _check_script_model(name: str, here: Path, *, weights: bool) -> None:
    """Check that a model is a folder here; upstream's program would download it.

    Upstream uses paths as they are: models/NAME cannot be written NAME.
    """
    if (here / name / "config.json").is_file():
        if weights:
            workspace.find_trained(name, here)
        return
    folder = Path(name).name.lower()
    remedy = f"--model_name_or_path models/{folder}"
    if not (here / "models" / folder).is_dir():
        remedy = f"{models.fetch_command(name, here)}, then {remedy}"
    raise RequestError(
        f'"{name}" is not a model in the workspace, and the job has no network to get it',
        where=str(here / name),
        remedy=remedy,
    )


def _check_corpus(folder: Path) -> None:
    """Check that a folder has a tokenized corpus: an index beside each file."""
    indices = sorted(folder.glob("*.idx"))
    missing = [
        path.with_suffix(".bin") for path in indices if not path.with_suffix(".bin").is_file()
    ]
    if missing or not indices:
        name = missing[0].name if missing else "a tokenized corpus (*.idx, *.bin)"
        remedy = "./inv prepare writes it; PaddleNLP's sample: ./inv fetch-data openwebtext-100k"
        raise RequestError(f"{name} is missing", where=str(folder), remedy=remedy)


def _check_prompts(path: Path) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"cannot read the prompts: {error.strerror}",
            where=str(path),
            remedy="--input FILE, readable by this user; - is standard input",
        ) from error
    prompts.parse(content, str(path))


_CHECKS: dict[str, Callable[[JobRequest, Path], _Checks]] = {
    "fetch": _fetch_checks,
    "fetch-data": _fetch_data_checks,
    "finetune": _finetune_checks,
    "pretrain": _pretrain_checks,
    "prepare": _prepare_checks,
    "inspect": _inspect_checks,
    "data": _data_checks,
    "quantize": _quantize_checks,
    "export": _export_checks,
    "infer": _infer_checks,
    "serve": _serve_checks,
    "upstream": _upstream_checks,
}


def _problems(check: Callable[[], object]) -> list[Problem]:
    """Return the problems that a check raises."""
    try:
        check()
    except RequestError as error:
        return list(error.problems)
    return []


def _check_idle(folder: Path) -> None:
    """Check that no job holds the folder: a job locks a file in it while it runs."""
    lock = folder / _LOCK
    if not lock.is_file():
        return
    with lock.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = stream.read(200).decode("utf-8", "replace").strip()
            raise RequestError(
                f"another job is writing here: {holder or 'it has just started'}",
                where=str(folder),
                remedy="wait for it, or use another name",
            ) from None

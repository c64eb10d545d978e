"""What can be known to be wrong before a container starts: only the checks the plan needs."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_stacks.dcu import capability
from paddle_stacks.dcu.cards import check_free
from paddle_stacks.errors import MachineError, Problem, RequestError
from paddle_stacks.jobs import (
    corpus,
    data_request,
    json_files,
    models,
    pretraining,
    prompts,
    quantizing,
    records,
    sample_data,
    schema,
    serving,
    spreading,
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
"""The label of an image that says which cards its operators have code for."""


# A container's own files are small; what a model needs beyond this the job finds
# out when it knows the model's size.
_LEAST_FREE_BYTES = 2 * 2**30
_LOCK = ".lock"


def check_image(plan: Plan, client: DockerClient) -> None:
    """Check that the engine has the plan's image.

    Raises:
        MachineError: it has not.
    """
    import docker.errors

    try:
        client.images.get(plan.image)
    except docker.errors.ImageNotFound as error:
        message = f"the image {plan.image} does not exist"
        raise MachineError(message, remedy=plan.build_command) from error


def check_verified(plan: Plan, settings: Settings, client: DockerClient) -> str:
    """Return why the plan's image does not count as verified; empty where it does.

    Args:
        plan: whose image the engine has.
        settings: say where attestations are, and whether one is required.
        client: of that engine.

    Raises:
        MachineError: it does not, and the settings require it.
    """
    image_id = str(client.images.get(plan.image).id)
    why, where = _not_verified(settings, image_id)
    if why and settings.require_verified:
        remedy = f"{plan.verify_command}; or run without --require-verified"
        raise MachineError(f"{plan.image} is not verified: {why}", where=where, remedy=remedy)
    return why


def _not_verified(settings: Settings, image_id: str) -> tuple[str, str]:
    """Return why an image does not count as verified, and the file that would say that it does."""
    folder = attestation.folder(settings)
    try:
        found = attestation.read(folder, image_id)
    except RequestError as error:
        return error.problems[0].what, error.problems[0].where
    where = str(attestation.path_of(folder, image_id))
    if found is None:
        return "nobody has run its tests here", where
    if not found.verified:
        count = len(found.failed)
        return f"{count} of its tests failed on {found.when}" if count else "no test was run", where
    return "", where


def check_machine(plan: Plan, settings: Settings) -> None:
    """Run the doctor's checks that would stop a job, and check that the listed devices are free.

    Args:
        plan: one with device nodes; another needs nothing of the kind.
        settings: say where the host is.

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
    """Check that the image's operators have code for the cards.

    The doctor compares the cards with what a build would compile for; this looks at
    what is in the image that will run.

    Args:
        plan: one with device nodes; another needs no operators.
        settings: say where the host is.
        client: of the engine that has the image.

    Raises:
        MachineError: they have none for a card that the job can use.
    """
    if not plan.devices or plan.job == "fetch":
        return
    if backend.load(plan.backend, settings.root).device != "gpu":
        return  # simulated cards compute with the CPU
    label = (client.images.get(plan.image).labels or {}).get(ARCHITECTURES, "")
    cards = capability.detect(settings.host_root, plan.cards)
    if problems := capability.architecture_problems(label, cards, plan.image):
        raise MachineError(problems)


def check_ports(plan: Plan) -> None:
    """Check that the ports that the plan publishes are free.

    Raises:
        MachineError: with one problem for each that is not.
    """
    problems = []
    for port in plan.ports:
        family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((port.address, port.number))
            except OSError as error:
                what = f"port {port.number} of {port.address} cannot be used: {error.strerror}"
                problems.append(Problem(what, plan.job, "--port N: another one"))
    if problems:
        raise MachineError(problems)


def check_workspace(plan: Plan) -> None:
    """Check that the container's user may write where jobs write, and that there is room.

    Raises:
        MachineError: a folder belongs to somebody else, or the disk is full.
    """
    folders = [plan.workspace, *(plan.workspace / name for name in ("models", "runs"))]
    problems = [
        Problem(
            f"user {plan.user}, as whom the job runs, may not write here",
            str(folder),
            f"sudo chown -R {plan.user} {folder}",
        )
        for folder in folders
        if folder.is_dir() and not may_write(folder, plan.user)
    ]
    free = shutil.disk_usage(plan.workspace).free
    if plan.job == "fetch" and free < _LEAST_FREE_BYTES:
        room = f"{free / 2**30:.1f} GiB free, a model needs {_LEAST_FREE_BYTES / 2**30:.0f} or more"
        problems.append(
            Problem(
                f"the disk is nearly full: {room}",
                str(plan.workspace),
                "make room, or set workspace to a folder on another disk",
            )
        )
    if problems:
        raise MachineError(problems)


def check_request(plan: Plan, arguments: argparse.Namespace) -> None:
    """Check the files that the job's arguments name.

    Raises:
        RequestError: with one problem for each fault.
    """
    # Relative, so that messages have the names that the person gave.
    here = Path(os.path.relpath(plan.workspace))
    faults = _link_faults(here, arguments)
    if check := _CHECKS.get(plan.argv[0]):
        faults += _faults(lambda: check(here, plan, arguments))
    if faults:
        raise RequestError(faults)


def _link_faults(here: Path, arguments: argparse.Namespace) -> list[Problem]:
    """Return the links among the named files and folders that a container cannot follow.

    ``models/``, ``data/``, ``runs/`` and ``configs/`` may be links themselves.
    """
    seen = [here, *(here / name for name in ("configs", "data", "models", "runs"))]
    roots = [Path(os.path.realpath(root)) for root in seen]
    faults: list[Problem] = []
    for name in sorted(_named(here, arguments)):
        for path in (here / name, here / "models" / name, here / "runs" / name):
            if path in seen or not os.access(path, os.R_OK):
                continue
            own = _link_problems(path, roots)
            inside = path.iterdir() if path.is_dir() and not own else ()
            faults += [*own, *(p for each in inside for p in _link_problems(each, roots))]
    return list(dict.fromkeys(faults))


def _link_problems(path: Path, roots: Sequence[Path]) -> list[Problem]:
    target = Path(os.path.realpath(path))
    inside = any(root == target or root in target.parents for root in roots)
    if inside or not os.access(path, os.F_OK):
        return []
    what = f"this is a link to {target}, outside the workspace, which is all that a job sees"
    return [Problem(what, str(path), f"rm {path} && cp -rL {target} {path}")]


def _named(here: Path, arguments: argparse.Namespace) -> set[str]:
    """Return the texts among the arguments, and in the configuration, that can name a path."""
    values = list(vars(arguments).values())
    for value in list(values):
        values += [text.rpartition("=")[2] for text in value] if isinstance(value, list) else []
    if config := getattr(arguments, "config", None):
        with contextlib.suppress(RequestError):  # what reads it next reports it
            values += json_files.read_object(here / config).values()
    texts = {str(value) for value in values if isinstance(value, (str, Path))}
    return {
        text
        for text in texts
        if 0 < len(text) < 200 and text.isprintable() and not text.startswith(("/", "."))
    }


def training_config(plan: Plan, arguments: argparse.Namespace) -> schema.Config:
    """Return the configuration of a plan for ``finetune`` or ``pretrain``, read again."""
    return schema.load(
        Path(os.path.relpath(plan.workspace)) / arguments.config,
        arguments.set,
        job=plan.argv[0],
        backend=plan.backend,
        world=arguments.ranks * (arguments.nnodes or 1),
    )


def _run_folder(arguments: argparse.Namespace, config: schema.Config) -> Path:
    return workspace.run_folder(arguments.name, arguments.config, config["output_dir"])


def _check_fetch(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    model = models.find(arguments.model, arguments.source, here)
    source = model.source
    if source.kind == models.SCRATCH:
        corpus.sources([source.value], here=here, texts_here=False)
    elif source.kind in ("gguf", "path") and not (here / source.value).exists():
        raise RequestError(
            "the model's source does not exist",
            where=str(here / source.value),
            remedy="--from PATH, which starts in the workspace; copy the model there",
        )


def _check_fetch_data(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    row = sample_data.find(arguments.data, here)
    if arguments.source:
        sample_data.local_files(row, here / arguments.source)


def _check_finetune(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    config = training_config(plan, arguments)
    world = arguments.ranks * (arguments.nnodes or 1)
    allowed = arguments.allow_pickle

    def check_model() -> None:
        model = workspace.find_trained(config["model_name_or_path"], here)
        workspace.check_weights(model, allowed)
        spreading.check(config, model, world)

    faults = [
        *_faults(check_model),
        *_faults(lambda: records.check(Dataset.from_config(config, here), dev=config["do_eval"])),
        *_faults(lambda: _check_idle(here / _run_folder(arguments, config))),
    ]
    if faults:
        raise RequestError(faults)


def _check_pretrain(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    config = training_config(plan, arguments)
    parts: list[corpus.Part] = []
    models: list[Path] = []
    faults = [
        *_faults(lambda: models.append(workspace.find_model(config["model_name_or_path"], here))),
        *_faults(lambda: parts.extend(corpus.parts(config["input_dir"], here))),
        *_faults(lambda: _check_idle(here / _run_folder(arguments, config))),
    ]
    if models and config["continue_training"]:
        faults += _faults(lambda: workspace.check_weights(models[0], arguments.allow_pickle))
    if models and parts:
        world = arguments.ranks * (arguments.nnodes or 1)
        faults += _faults(lambda: pretraining.check(config, models[0], parts, world))
    if faults:
        raise RequestError(faults)


def _check_prepare(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    prefix = here / arguments.output
    faults = [
        *_faults(lambda: corpus.shares(arguments.split)),
        *_faults(lambda: workspace.find_model(arguments.model, here)),
        *_faults(lambda: corpus.sources(arguments.input, arguments.format, here, texts_here=False)),
        *_faults(lambda: corpus.prefix_of(str(prefix) + "/" * arguments.output.endswith("/"))),
    ]
    if prefix.name:
        faults += _faults(lambda: _check_idle(corpus.partial_folder(prefix)))
    if faults:
        raise RequestError(faults)


def _check_inspect(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    faults = [
        *_faults(lambda: corpus.shares(arguments.split)),
        *_faults(lambda: corpus.parts(arguments.corpus, here)),
    ]
    if arguments.model:
        faults += _faults(lambda: workspace.find_model(arguments.model, here))
    if faults:
        raise RequestError(faults)


def _check_data(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    data_request.check(arguments, here)


def _check_quantize(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    config = quantizing.load(arguments, here, plan.backend)
    quantizing.check(config, here, force=arguments.force)


def _check_export(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    faults = _faults(lambda: _check_export_model(here, arguments))
    if arguments.adapter:
        faults += _faults(lambda: workspace.find_adapter(arguments.adapter, here))
    if faults:
        raise RequestError(faults)


def _check_export_model(here: Path, arguments: argparse.Namespace) -> None:
    model = workspace.find_trained(arguments.model, here)
    workspace.check_weights(model, arguments.allow_pickle)
    if arguments.merge:
        workspace.check_trainable(model)


def _check_infer(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    faults = _faults(lambda: workspace.find_trained(arguments.model, here))
    if arguments.adapter:
        faults += _faults(lambda: workspace.find_adapter(arguments.adapter, here))
    if arguments.input and arguments.input != "-":
        faults += _faults(lambda: _check_prompts(here / arguments.input))
    if faults:
        raise RequestError(faults)


def _check_serve(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    faults = _faults(lambda: workspace.find_model(arguments.model, here))
    if arguments.adapter:
        faults += _faults(lambda: workspace.find_adapter(arguments.adapter, here))
    for secret in plan.secrets:
        faults += _faults(partial(serving.load_some, Path(str(secret.source))))
    if faults:
        raise RequestError(faults)


def _check_upstream(here: Path, plan: Plan, arguments: argparse.Namespace) -> None:
    found = upstream.options(
        arguments.script,
        arguments.arguments,
        lambda name: here / name if (here / name).is_file() else None,
    )
    faults = _faults(lambda: _check_idle(here / upstream.run_folder(arguments)))
    if model := found.values.get("model_name_or_path"):
        # Its program for pretraining begins with random weights, unless it is to go on.
        begins = arguments.script == "run_pretrain.py" and not found.on("continue_training")
        faults += _faults(lambda: _check_upstream_model(str(model), here, weights=not begins))
    if data := found.values.get("dataset_name_or_path"):
        evaluates = found.on("do_eval")
        faults += _faults(lambda: records.check(here / str(data), dev=evaluates, upstream=True))
    if data := found.values.get("input_dir"):
        faults += _faults(lambda: _check_packed(here / str(data)))
    if faults:
        raise RequestError(faults)


def _check_upstream_model(name: str, here: Path, *, weights: bool) -> None:
    """Check that a model is a folder here: upstream's program would download it, without a network.

    Its own paths are taken as they are: models/NAME cannot be written NAME.
    """
    if (here / name / "config.json").is_file():
        if weights:
            workspace.find_trained(name, here)
        return
    row = Path(name).name.lower()
    remedy = f"--model_name_or_path models/{row}"
    if not (here / "models" / row).is_dir():
        remedy = f"{models.fetch_command(name, here)}, then {remedy}"
    raise RequestError(
        f'"{name}" is not a model in the workspace, and the job has no network to get it',
        where=str(here / name),
        remedy=remedy,
    )


def _check_packed(folder: Path) -> None:
    """Check that a folder has text that was packed for pretraining: an index beside each file."""
    indices = sorted(folder.glob("*.idx"))
    missing = [
        path.with_suffix(".bin") for path in indices if not path.with_suffix(".bin").is_file()
    ]
    if missing or not indices:
        what = (
            f"there is no {missing[0].name}"
            if missing
            else "there is no packed text (*.idx, *.bin)"
        )
        remedy = "./inv prepare writes it; PaddleNLP's sample: ./inv fetch-data openwebtext-100k"
        raise RequestError(what, where=str(folder), remedy=remedy)


def _check_prompts(path: Path) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"cannot read the prompts: {error.strerror}",
            where=str(path),
            remedy="--input FILE, that this user may read; - is standard input",
        ) from error
    prompts.parse(content, str(path))


_CHECKS: dict[str, Callable[[Path, Plan, argparse.Namespace], None]] = {
    "fetch": _check_fetch,
    "fetch-data": _check_fetch_data,
    "finetune": _check_finetune,
    "pretrain": _check_pretrain,
    "prepare": _check_prepare,
    "inspect": _check_inspect,
    "data": _check_data,
    "quantize": _check_quantize,
    "export": _check_export,
    "infer": _check_infer,
    "serve": _check_serve,
    "upstream": _check_upstream,
}


def _faults(check: Callable[[], object]) -> list[Problem]:
    """Return what the check finds wrong with the request."""
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
                f"another job is writing here: {holder or 'it has just begun'}",
                where=str(folder),
                remedy="wait for it, or give this one a name of its own",
            ) from None

"""Builds of the images: ``docker buildx bake`` with the variables of this checkout."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_stacks.build import reasons, recorded
from paddle_stacks.build.os_image import (
    OsImage,
    dtk_reference,
    recorded_name,
    resolve,
    resolve_dtk,
)
from paddle_stacks.build.progress import Step, Steps, documents
from paddle_stacks.build.variables import check_request, paddle_dcu, secrets, variables
from paddle_stacks.errors import BuildError, RequestError, suggest
from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.settings import Settings

if TYPE_CHECKING:
    import docker

__all__ = ["Built", "build", "check", "command", "export", "targets"]

_LOGS = Path(".cache") / "build"


@dataclass(frozen=True)
class Built:
    """The result of a build.

    Args:
        images: references of the images.
        seconds: duration of the build.
        run: number of Dockerfile steps that ran.
        cached: number of steps that were cached.
        logs: folder with a log for each step that printed something.
    """

    images: tuple[str, ...]
    seconds: float
    run: int
    cached: int
    logs: Path


def build(
    images: Sequence[str], settings: Settings, *, quiet: bool = False, record: bool = False
) -> Built:
    """Build images and return the result.

    Args:
        images: targets or groups of ``docker-bake.hcl``.
        settings: backend, mirrors, proxies, the CA bundle.
        quiet: print nothing.
        record: accept new digests of the build's inputs, and record them.

    Raises:
        RequestError: an image is unknown.
        MachineError: no engine answers, or the OS image is not available.
        BuildError: a step failed (the error names its log), or the digest of an input differs
            from the recorded one.
    """
    from paddle_stacks import engine

    check_request(settings)
    client = engine.connect()
    check(images, settings.root)
    os_image = resolve(settings, client)
    dtk_image = resolve_dtk(settings, client)
    _compare_images(settings, os_image, dtk_image, record=record)
    bake_variables = variables(settings, os_image, dtk_image)
    log = _discard if quiet else _log
    parent = dtk_image or os_image
    log(f"building {', '.join(images)} for {settings.backend} on {parent.reference}")
    if source := bake_variables["PADDLENLP_SRC"]:
        log(f"  operators for {bake_variables['GFX_ARCHS']} from {source}")
    fingerprint = reasons.fingerprint(settings.root, settings.backend, bake_variables["LOCK"])
    stored = settings.root / _LOGS / f"last-{settings.backend}.json"
    names = _expand(images, settings.root)
    started = time.monotonic()
    steps = Steps()
    for targets_of_call in _calls(images, names, bake_variables):
        _bake(targets_of_call, settings, bake_variables, log, steps, record=record)
    if settings.backend == "dcu":
        _compare_paddle(settings, client, names, record=record)
    previous = reasons.load(stored)
    reason_of = reasons.reasons(steps, previous, fingerprint)
    logs = _write_logs(steps, settings.root)
    reasons.store(stored, {**previous, **fingerprint})
    _write_env_file(settings, bake_variables)
    own = [s for s in steps if s.stage and not s.instruction.startswith("FROM ")]
    run = [step for step in own if step.ran]
    for step in own:
        # The results of images/ops/check_operators.py.
        for line in step.text.splitlines():
            if " operators, code for " in line:
                log(f"  {line}")
    for step in run:
        log(f"  ran {step.stage}: {_short(step.instruction)} ({reason_of[step.digest]})")
    built = Built(
        tuple(f"paddle-stacks/{name}:{settings.backend}" for name in names),
        time.monotonic() - started,
        len(run),
        sum(step.cached for step in own),
        logs,
    )
    log(f"built in {built.seconds:.1f} s: {built.run} steps run, {built.cached} from the cache")
    return built


def export(target: str, into: Path, settings: Settings) -> None:
    """Write the files of a stage of the Dockerfile into a folder.

    Args:
        target: a target of ``docker-bake.hcl`` without tags.
        into: the folder; it is created.
        settings: backend, mirrors, proxies, the CA bundle.

    Raises:
        MachineError: no engine answers, or the OS image is not available.
        BuildError: a step failed; the error names its log.
    """
    from paddle_stacks import engine

    client = engine.connect()
    bake_variables = variables(settings, resolve(settings, client), resolve_dtk(settings, client))
    words = ["--set", f"{target}.output=type=local,dest={into}", target]
    _bake(words, settings, bake_variables, _log, Steps())


def _compare_images(
    settings: Settings, os_image: OsImage, dtk_image: OsImage | None, *, record: bool
) -> None:
    """Compare the OS and DTK images with their recorded digests."""
    for image, argument in ((os_image, "OS_IMAGE"), (dtk_image, "DTK_IMAGE")):
        if image is None or image.source == "bootstrap":
            continue
        name = recorded_name(image, settings.root / "Dockerfile", argument)
        recorded.compare(settings.root, name, image.digests, record=record)


def _compare_paddle(
    settings: Settings, client: docker.DockerClient, images: Sequence[str], *, record: bool
) -> None:
    """Compare the hash of the Paddle wheel in a DCU image with the recorded one."""
    with_paddle = next((name for name in images if name != "base"), "")
    if not with_paddle:
        return
    container = client.containers.create(f"paddle-stacks/{with_paddle}:{settings.backend}")
    try:
        stream, _ = container.get_archive("/opt/venv/paddle-dcu.sha256")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            member = archive.extractfile(archive.getmembers()[0])
            digest = f"sha256:{member.read(64).decode()}" if member else ""
    finally:
        container.remove()
    recorded.compare(settings.root, paddle_dcu(settings.root), (digest,), record=record)


def check(images: Sequence[str], root: Path) -> None:
    """Raise a RequestError for images that are not targets of ``docker-bake.hcl``."""
    names = targets(root)
    for name in images:
        if name not in names:
            raise RequestError(
                f'no image is named "{name}"',
                where="docker-bake.hcl",
                remedy=suggest(name, names, "images"),
            )


def command(images: Sequence[str], *, progress: str = "rawjson") -> list[str]:
    """Return the command that builds images; it reads the variables from the environment."""
    return ["docker", "buildx", "bake", "-f", "docker-bake.hcl", f"--progress={progress}", *images]


def plan_text(images: Sequence[str], settings: Settings) -> str:
    """Return the commands of :func:`build` as a shell script, without pulling the DTK image."""
    from paddle_stacks import engine

    check_request(settings)
    check(images, settings.root)
    reference = dtk_reference(settings)
    dtk_image = OsImage(reference, "unknown", "registry") if reference else None
    bake_variables = {
        **variables(settings, resolve(settings, engine.connect()), dtk_image),
        "CA_BUNDLE": str(settings.ca_bundle or os.devnull),
    }
    lines = [f"export {key}={shlex.quote(value)}" for key, value in bake_variables.items()]
    return "\n".join([*lines, shlex.join(command(images, progress="auto"))])


def targets(root: Path) -> list[str]:
    """Return the targets and groups of ``docker-bake.hcl``.

    Raises:
        BuildError: bake cannot read it.
    """
    printed = _print_bake(root, "all", "ops")
    return [*printed["target"], "all", "default"]


def _calls(
    images: Sequence[str], names: Sequence[str], bake_variables: Mapping[str, str]
) -> list[Sequence[str]]:
    """Return the targets of each call of bake.

    A named context is sent once per target, and BuildKit does not recognize that two targets
    of one call have the same context: it would compile the operators twice.
    """
    if not bake_variables["GFX_ARCHS"] and not bake_variables["PACKAGES"]:
        return [images]
    compiled = bake_variables["GFX_ARCHS"] and set(names) - {"base", "framework", "ops"}
    return [[name] for name in (*(["ops"] if compiled else []), *names)]


def _expand(images: Sequence[str], root: Path) -> list[str]:
    """Return the targets that names of targets and groups stand for."""
    return [target for name in images for target in _print_bake(root, name)["target"]]


def _print_bake(root: Path, *names: str) -> dict[str, Any]:
    done = subprocess.run(
        ["docker", "buildx", "bake", "-f", "docker-bake.hcl", "--print", *names],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(
            done.stderr.strip().splitlines()[-1],
            where="docker-bake.hcl",
            remedy="run `docker buildx bake -f docker-bake.hcl --print` for details",
        )
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def _bake(
    images: Sequence[str],
    settings: Settings,
    bake_variables: Mapping[str, str],
    log: Callable[[str], None],
    steps: Steps,
    *,
    record: bool = False,
) -> None:
    plain: list[str] = []
    with secrets(settings, record=record) as files:
        environment = {**os.environ, **bake_variables, **files}
        with subprocess.Popen(
            command(images),
            cwd=settings.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as bake:
            assert bake.stderr is not None
            for document in documents(bake.stderr):
                if isinstance(document, str):
                    plain.append(document)
                    continue
                for step in steps.take(document):
                    if step.stage and step.ran and step.seconds >= 0.05:
                        log(f"  {step.stage}: {_short(step.instruction)}  {step.seconds:.1f} s")
    if bake.returncode:
        raise _failure(steps, plain, settings.root)


def _failure(steps: Steps, plain: list[str], root: Path) -> BuildError:
    logs = _write_logs(steps, root)
    failed = [step for step in steps if step.error and "canceled" not in step.error]
    if not failed:
        message = next((line for line in reversed(plain) if line.strip()), "docker buildx failed")
        return BuildError(
            message.removeprefix("ERROR: "),
            where="docker buildx bake",
            remedy="repeat the command that ./inv build --plan prints; ./inv doctor checks the"
            " engine",
        )
    step = failed[0]
    last = "\n         ".join(step.text.strip().splitlines()[-5:])
    return BuildError(
        f"{step.stage or 'build'}: {_short(step.instruction)}: {step.error.splitlines()[0]}",
        where=f"{logs / _log_name(step)}" + (f"\n         {last}" if last else ""),
        remedy="read the log; ./inv build --plan prints the command to repeat it",
    )


def _write_env_file(settings: Settings, bake_variables: Mapping[str, str]) -> None:
    """Write the variables of ``docker-bake.hcl`` to ``.env``, which Compose reads.

    Other backends than cpu have their own file (``docker compose --env-file .env.dcu …``). A
    file without our heading is left unchanged.
    """
    path = settings.root / (".env" if settings.backend == "cpu" else f".env.{settings.backend}")
    head = "# Written by ./inv build for docker compose; not to be edited.\n"
    if path.is_file() and not path.read_text(encoding="utf-8").startswith(head):
        return
    # An empty value would replace a default of the Dockerfile.
    lines = [f"{key}={value}\n" for key, value in bake_variables.items() if value]
    if settings.backend != "cpu":
        # docker-compose.dcu.yml has its own names, so that .env does not set them.
        lines += [f"DCU_{key}={bake_variables[key]}\n" for key in ("BACKEND", "LOCK")]
    with replacing_file(path) as stream:
        stream.writelines([head, *lines])


def _write_logs(steps: Steps, root: Path) -> Path:
    """Write the log of each step that printed something; return the logs' folder."""
    folder = root / _LOGS / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        if step.log:
            (folder / _log_name(step)).write_bytes(bytes(step.log))
    return folder


def _log_name(step: Step) -> str:
    digest = step.digest.rpartition(":")[2][:8]
    return f"{step.stage or 'buildkit'}-{digest}.log"


def _short(instruction: str, width: int = 70) -> str:
    words = [word for word in instruction.split() if not word.startswith("--mount")]
    text = " ".join(words).replace("/bin/sh -eu -c ", "")
    return text if len(text) <= width else text[: width - 1] + "…"


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _discard(text: str) -> None:
    """Print nothing."""

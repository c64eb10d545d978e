"""Build the images: ``docker buildx bake`` with this checkout's variables, told step by step."""

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
from paddle_stacks.build.os_image import OsImage, recorded_name, resolve, resolve_dtk
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
    """The outcome of a build.

    Args:
        images: the references that were built.
        seconds: from start to end.
        run: how many of the Dockerfile's steps were run.
        cached: how many were taken from the cache.
        logs: the folder with a log for each step that printed something.
    """

    images: tuple[str, ...]
    seconds: float
    run: int
    cached: int
    logs: Path


def build(
    images: Sequence[str], settings: Settings, *, quiet: bool = False, record: bool = False
) -> Built:
    """Build images and return what was done.

    Args:
        images: targets of ``docker-bake.hcl``; a group's name stands for its targets.
        settings: backend, mirrors, proxies, the CA bundle.
        quiet: say nothing but errors.
        record: accept other digests of what the build starts from, and record them.

    Raises:
        RequestError: an unknown image.
        MachineError: no engine answers, or there is no OS image to be had.
        BuildError: a step failed; the error names its log. Or what the build starts from is
            not what is recorded.
    """
    from paddle_stacks import engine

    check_request(settings)
    client = engine.connect()
    check(images, settings.root)
    os_image = resolve(settings, client)
    dtk_image = resolve_dtk(settings, client)
    _compare_images(settings, os_image, dtk_image, record=record)
    given = variables(settings, os_image, dtk_image)
    say = _silent if quiet else _say
    on = dtk_image or os_image
    say(f"building {', '.join(images)} for {settings.backend} on {on.reference}")
    if given["PADDLENLP_SRC"]:
        say(f"  operators for {given['GFX_ARCHS']} from {given['PADDLENLP_SRC']}")
    now = reasons.fingerprint(settings.root, settings.backend, given["LOCK"])
    memory = settings.root / _LOGS / f"last-{settings.backend}.json"
    started = time.monotonic()
    steps = Steps()
    for group in _rounds(images, settings.root, given):
        _bake(group, settings, given, say, steps, record=record)
    if settings.backend == "dcu":
        _compare_paddle(settings, client, _expand(images, settings.root), record=record)
    before = reasons.remembered(memory)
    found = reasons.reasons(steps, before, now)
    logs = _keep_logs(steps, settings.root)
    reasons.remember(memory, {**before, **now})
    _tell_compose(settings, given)
    own = [s for s in steps if s.stage and not s.instruction.startswith("FROM ")]
    run = [step for step in own if step.ran]
    for step in own:
        # What images/ops/check_operators.py found in the libraries.
        for line in bytes(step.log).decode(errors="replace").splitlines():
            if " operators, code for " in line:
                say(f"  {line}")
    for step in run:
        say(f"  ran {step.stage}: {_short(step.instruction)} ({found[step.digest]})")
    built = Built(
        tuple(
            f"paddle-stacks/{name}:{settings.backend}" for name in _expand(images, settings.root)
        ),
        time.monotonic() - started,
        len(run),
        sum(step.cached for step in own),
        logs,
    )
    say(f"built in {built.seconds:.1f} s: {built.run} steps run, {built.cached} from the cache")
    return built


def export(target: str, into: Path, settings: Settings) -> None:
    """Write the files of a stage of the Dockerfile into a folder.

    Args:
        target: a target of ``docker-bake.hcl`` that is no image.
        into: the folder; it is made.
        settings: backend, mirrors, proxies, the CA bundle.

    Raises:
        MachineError: no engine answers, or there is no OS image to be had.
        BuildError: a step failed; the error names its log.
    """
    from paddle_stacks import engine

    client = engine.connect()
    given = variables(settings, resolve(settings, client), resolve_dtk(settings, client))
    words = ["--set", f"{target}.output=type=local,dest={into}", target]
    _bake(words, settings, given, _say, Steps())


def _compare_images(
    settings: Settings, os_image: OsImage, dtk_image: OsImage | None, *, record: bool
) -> None:
    """Compare the images that a build starts from with their recorded digests."""
    for image, argument in ((os_image, "OS_IMAGE"), (dtk_image, "DTK_IMAGE")):
        if image is None or image.source == "bootstrap":
            continue
        name = recorded_name(image, settings.root / "Dockerfile", argument)
        recorded.compare(settings.root, name, image.digests, record=record)


def _compare_paddle(
    settings: Settings, client: docker.DockerClient, images: Sequence[str], *, record: bool
) -> None:
    """Compare the wheel of a DCU's Paddle that is in an image with its recorded hash."""
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
    """Raise a RequestError for the images that are no targets."""
    known = targets(root)
    for name in images:
        if name not in known:
            raise RequestError(
                f'no image is named "{name}"',
                where="docker-bake.hcl",
                remedy=suggest(name, known, "images"),
            )


def command(images: Sequence[str], *, progress: str = "rawjson") -> list[str]:
    """Return the command line that builds the images; the variables are in the environment."""
    return ["docker", "buildx", "bake", "-f", "docker-bake.hcl", f"--progress={progress}", *images]


def plan_text(
    images: Sequence[str], settings: Settings, os_image: OsImage, dtk_image: OsImage | None = None
) -> str:
    """Return what :func:`build` would run, as a shell script that can be pasted."""
    given = {
        **variables(settings, os_image, dtk_image),
        "CA_BUNDLE": str(settings.ca_bundle or os.devnull),
    }
    lines = [f"export {key}={shlex.quote(value)}" for key, value in given.items()]
    return "\n".join([*lines, shlex.join(command(images, progress="auto"))])


def targets(root: Path) -> list[str]:
    """Return the targets and groups of ``docker-bake.hcl``.

    Raises:
        BuildError: bake cannot read it.
    """
    printed = _print_bake(root, "all", "ops")
    return [*printed["target"], "all", "default"]


def _rounds(images: Sequence[str], root: Path, given: Mapping[str, str]) -> list[Sequence[str]]:
    """Return what is built one after the other.

    A named context is sent for each target, and BuildKit takes what two targets are
    sent in one call for two things: the operators would be compiled twice.
    """
    if not given["GFX_ARCHS"] and not given["PACKAGES"]:
        return [images]
    wanted = _expand(images, root)
    compiled = given["GFX_ARCHS"] and set(wanted) - {"base", "framework", "ops"}
    before = ["ops"] if compiled else []
    return [[name] for name in (*before, *wanted)]


def _expand(images: Sequence[str], root: Path) -> list[str]:
    return [name for given in images for name in _print_bake(root, given)["target"]]


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
            remedy="docker buildx bake -f docker-bake.hcl --print says it at length",
        )
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def _bake(
    images: Sequence[str],
    settings: Settings,
    given: Mapping[str, str],
    say: Callable[[str], None],
    steps: Steps,
    *,
    record: bool = False,
) -> None:
    plain: list[str] = []
    with secrets(settings, record=record) as files:
        environment = {**os.environ, **given, **files}
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
                        say(f"  {step.stage}: {_short(step.instruction)}  {step.seconds:.1f} s")
    if bake.returncode:
        raise _failure(steps, plain, settings.root)


def _failure(steps: Steps, plain: list[str], root: Path) -> BuildError:
    logs = _keep_logs(steps, root)
    failed = [step for step in steps if step.error and "canceled" not in step.error]
    if not failed:
        told = next((line for line in reversed(plain) if line.strip()), "docker buildx failed")
        return BuildError(
            told.removeprefix("ERROR: "),
            where="docker buildx bake",
            remedy="./inv build --plan prints the command to repeat it; ./inv doctor looks at the "
            "engine",
        )
    step = failed[0]
    lines = bytes(step.log).decode(errors="replace").strip().splitlines()
    last = "\n         ".join(lines[-5:])
    return BuildError(
        f"{step.stage or 'build'}: {_short(step.instruction)}: {step.error.splitlines()[0]}",
        where=f"{logs / _log_name(step)}" + (f"\n         {last}" if last else ""),
        remedy="the log has the whole of it; ./inv build --plan prints the command to repeat it",
    )


def _tell_compose(settings: Settings, given: Mapping[str, str]) -> None:
    """Write ``.env``, from which Compose takes what ``docker-bake.hcl`` takes from us.

    Compose's own file is the CPU's; that of another backend is named after it
    (``docker compose --env-file .env.dcu …``). One that somebody else wrote is left alone.
    """
    path = settings.root / (".env" if settings.backend == "cpu" else f".env.{settings.backend}")
    head = "# Written by ./inv build for docker compose; not to be edited.\n"
    if path.is_file() and not path.read_text(encoding="utf-8").startswith(head):
        return
    # Before the file is opened: its temporary name would make the checkout look edited.
    lines = [f"{key}={value}\n" for key, value in given.items()]
    if settings.backend != "cpu":
        # docker-compose.dcu.yml: under their own names, which .env does not have.
        lines += [f"DCU_{key}={given[key]}\n" for key in ("BACKEND", "LOCK")]
    with replacing_file(path) as stream:
        stream.writelines([head, *lines])


def _keep_logs(steps: Steps, root: Path) -> Path:
    """Write the log of each step that printed something; return their folder."""
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    """Say nothing."""

"""Checks of the engine, its plugins, its disk, and the images."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_stacks.dcu import host
from paddle_stacks.doctor.finding import Finding, Fix, error, hint, ok, skipped, warning
from paddle_stacks.doctor.machine import Machine
from paddle_stacks.errors import BuildError, MachineError
from paddle_stacks.revision import revision

if TYPE_CHECKING:
    from docker.models.images import Image

__all__ = ["buildx", "compose", "disk", "engine", "image_libraries", "images"]

_GIB = 2**30
# Oldest tested versions: the engine and plugins of Ubuntu 22.04. ./inv installs newer ones.
_ENGINE, _BUILDX, _COMPOSE = (24, 0), (0, 12), (2, 20)

# Space for the images and the build cache, in GiB. cpu: 1.5 for images (measured) and as
# much for the cache. dcu-sim: 2.3 and its toolchain. dcu: the DTK image was not measured;
# such images are 20 and more unpacked, and the cache has another copy of each layer.
_REQUIRED_GIB = {"cpu": 6, "dcu-sim": 12, "dcu": 60}
_RESERVE_GIB = 2
_IMAGES = ("train", "infer")

_LIBPADDLE = "/opt/venv/lib/python3*/site-packages/paddle/base/libpaddle.so"
_LDD = f'set -- {_LIBPADDLE}; test -e "$1" || exit 3; LC_ALL=C ldd "$1"'


def engine(machine: Machine) -> Finding:
    """Check that a Docker Engine responds, and its version."""
    if isinstance(machine.engine, MachineError):
        problem = machine.engine.problems[0]
        return error(f"{problem.what} ({problem.where})", problem.remedy, _start_engine())
    version = str(machine.engine.version()["Version"])
    return _at_least("Docker Engine", version, _ENGINE)


def buildx(machine: Machine) -> Finding:
    """Check that the docker command has buildx, which builds the images."""
    return _plugin(machine, "buildx", "docker-buildx", _BUILDX)


def compose(machine: Machine) -> Finding:
    """Check that the docker command has Compose v2."""
    return _plugin(machine, "compose", "docker-compose or docker-compose-v2", _COMPOSE)


def disk(machine: Machine) -> Finding:
    """Check that the engine's disk has enough space for the backend's images."""
    if not machine.client:
        return skipped("no engine responds")
    store = _store(machine.engine_info)
    if not store.is_dir():
        return skipped(f"{store} is not on this machine, or this user has no access to it")
    free = shutil.disk_usage(store).free / _GIB
    complete = len(_built_images(machine)) == len(_IMAGES)
    need = _RESERVE_GIB if complete else _REQUIRED_GIB.get(machine.backend.name, 6)
    summary = f"{free:.0f} GiB free in {store}"
    if free >= need:
        return ok(summary)
    remedy = (
        "check the usage (docker system df) and delete build cache (docker builder prune), or "
        "move the engine's data-root to a larger disk"
    )
    if complete:
        return warning(f"{summary}; a build needs space for new layers", remedy)
    return error(
        f"{summary}; the images of {machine.backend.name} and their cache need {need} GiB", remedy
    )


def images(machine: Machine) -> Finding:
    """Check that the backend's images are built, from this checkout's revision and locks."""
    if not machine.client:
        return skipped("no engine responds")
    name = machine.backend.name
    by_name = _built_images(machine)
    rebuild = "./inv build" if name == "cpu" else f"./inv build --backend {name}"
    if missing := [image for image in _IMAGES if image not in by_name]:
        tags = ", ".join(f"paddle-stacks/{image}:{name}" for image in missing)
        return warning(f"not built: {tags}", rebuild)
    labels = {image: dict(entry.labels or {}) for image, entry in by_name.items()}
    if other := _other_lock(machine, labels):
        return warning(f"{other}: its packages differ from this checkout's locks", rebuild)
    revisions = {
        image: str(entry.get("org.opencontainers.image.revision", "unknown"))
        for image, entry in labels.items()
    }
    shown = ", ".join(f"{image} {built[:12]}" for image, built in revisions.items())
    head = revision(machine.settings.root).removesuffix("-dirty")
    if head != "unknown" and any(not built.startswith(head) for built in revisions.values()):
        return hint(f"{shown}; this checkout is {head[:12]}", f"{rebuild}, if that matters")
    dirty = any(built.endswith("-dirty") for built in revisions.values())
    return ok(f"{shown}{', with uncommitted changes' if dirty else ''}")


def image_libraries(machine: Machine) -> Finding:
    """Check with ``ldd`` that Paddle's library in the image finds its dependencies.

    It runs in a non-login shell, as jobs do.
    """
    if not machine.client:
        return skipped("no engine responds")
    if "infer" not in _built_images(machine):
        return skipped("the image is not built")
    import docker.errors

    folders = {
        str(host.inside(machine.root, path)): {"bind": path, "mode": "ro"}
        for path in machine.backend.folders
        if host.inside(machine.root, path).is_dir()
    }
    try:
        output = machine.client.containers.run(
            f"paddle-stacks/infer:{machine.backend.name}",
            [_LDD],
            entrypoint=["/bin/sh", "-c"],
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            user="65534:65534",
            volumes=folders,
            remove=True,
        )
    except docker.errors.ContainerError as failure:
        if failure.exit_status == 3:
            return error(f"the image does not contain {_LIBPADDLE}", _rebuild(machine))
        reason = _text(failure.stderr or b"").strip() or "no message"
        return error(f"ldd failed in the image: {reason.splitlines()[-1]}", _rebuild(machine))
    except docker.errors.APIError as failure:
        return error(
            f"a container cannot be started: {failure.explanation or failure}",
            "check the engine's log: journalctl -u docker",
        )
    text = _text(output)
    missing = [line.split()[0] for line in text.splitlines() if line.rstrip().endswith("not found")]
    if missing:
        return error(
            f"libpaddle.so: libraries not found: {', '.join(dict.fromkeys(missing))}",
            "the DTK's environment must be in the image's ENV, not in .bashrc, and the host's "
            f"/opt/hyhal in the container; {_rebuild(machine)}",
        )
    return ok(f"libpaddle.so: all {len(text.splitlines())} libraries found")


def _start_engine() -> Fix | None:
    from paddle_stacks import engine

    if os.geteuid() != 0:
        return None
    if shutil.which("dockerd"):
        return Fix("start the Docker Engine", engine.ensure)
    packages = engine.packages_for(engine.this_distribution())
    if not packages:
        return None
    return Fix(f"install {' '.join(packages)} and start the Docker Engine", engine.ensure)


def _plugin(machine: Machine, plugin: str, package: str, least: tuple[int, int]) -> Finding:
    try:
        text = machine.run(["docker", plugin, "version"])
    except MachineError as failure:
        return error(
            failure.problems[0].what,
            f"install the package {package}, or Docker's own docker-{plugin}-plugin",
        )
    return _at_least(plugin, text.strip(), least)


def _at_least(name: str, text: str, least: tuple[int, int]) -> Finding:
    match = re.search(r"(?<![\w.])v?(\d+)\.(\d+)[\w.+~-]*", text)
    if not match:
        return warning(f'{name} reports no version: "{text[:60]}"', f"install a release of {name}")
    summary = f"{name} {match[0].removeprefix('v')}"
    if (int(match[1]), int(match[2])) < least:
        minimum = ".".join(map(str, least))
        return warning(
            f"{summary} is older than {minimum}, the oldest version tested",
            f"install {minimum} or newer",
        )
    return ok(summary)


def _store(info: Mapping[str, Any]) -> Path:
    """Return the folder of the engine's images; containerd's image store has its own."""
    status = dict(entry[:2] for entry in info.get("DriverStatus") or [])
    if str(status.get("driver-type", "")).startswith("io.containerd.snapshotter"):
        return Path("/var/lib/containerd")
    return Path(str(info.get("DockerRootDir") or "/var/lib/docker"))


def _built_images(machine: Machine) -> dict[str, Image]:
    import docker.errors

    by_name: dict[str, Image] = {}
    for image in _IMAGES:
        try:
            if machine.client:
                tag = f"paddle-stacks/{image}:{machine.backend.name}"
                by_name[image] = machine.client.images.get(tag)
        except docker.errors.ImageNotFound:
            continue
    return by_name


def _other_lock(machine: Machine, labels: Mapping[str, Mapping[str, str]]) -> str:
    """Return the first image that was built from other locks; empty if there is none."""
    from paddle_stacks.build.variables import lock_hash

    try:
        expected = lock_hash(machine.settings.root, machine.backend)
    except BuildError:
        return ""
    locks = ((image, entry.get("paddle-stacks.lock")) for image, entry in labels.items())
    return next((image for image, lock in locks if lock != expected), "")


def _text(output: str | bytes) -> str:
    return output if isinstance(output, str) else output.decode("utf-8", "replace")


def _rebuild(machine: Machine) -> str:
    return f"rebuild it: ./inv build --backend {machine.backend.name}"

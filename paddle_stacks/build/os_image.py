"""The OS image of a build: pulled, or bootstrapped from Debian's packages without a registry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_stacks.errors import BuildError, MachineError, RequestError
from paddle_stacks.settings import Settings

if TYPE_CHECKING:
    import docker

__all__ = [
    "BOOTSTRAPPED",
    "OsImage",
    "default_reference",
    "dtk_reference",
    "recorded_name",
    "resolve",
    "resolve_dtk",
]

BOOTSTRAPPED = "paddle-stacks/os:bookworm"
_PULL_SECONDS = 20

# The paths that Debian's slim image leaves out.
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclass(frozen=True)
class OsImage:
    """The OS or DTK image of a build.

    Args:
        reference: for ``FROM`` in the Dockerfile.
        digest: the registry's digest, or the image's id.
        source: ``registry`` or ``bootstrap``.
        digests: all digests of registries; empty if it was bootstrapped or loaded from a file.
    """

    reference: str
    digest: str
    source: str
    digests: tuple[str, ...] = ()


def default_reference(dockerfile: Path, argument: str = "OS_IMAGE") -> str:
    """Return the default of an argument in the Dockerfile."""
    match = re.search(rf"^ARG {argument}=(\S+)$", dockerfile.read_text(), re.MULTILINE)
    if not match:
        raise BuildError(
            f"no ARG {argument}=…", where=str(dockerfile), remedy=f"git checkout {dockerfile.name}"
        )
    return match[1]


def dtk_reference(settings: Settings) -> str:
    """Return the DTK image, the parent of a DCU's images; empty for other backends.

    The setting ``registry`` replaces the host in the Dockerfile's default.
    """
    if settings.backend != "dcu":
        return ""
    default = default_reference(settings.root / "Dockerfile", "DTK_IMAGE")
    if settings.registry:
        default = f"{settings.registry.rstrip('/')}/{default.partition('/')[2]}"
    return settings.dtk_image or default


def resolve_dtk(settings: Settings, client: docker.DockerClient) -> OsImage | None:
    """Return the DTK image, after pulling it if necessary; None for other backends.

    Raises:
        MachineError: it does not exist on this machine and cannot be pulled.
    """
    reference = dtk_reference(settings)
    if not reference:
        return None
    if image := _local(client, reference):
        return image
    print(f"pulling {reference}, several GB", file=sys.stderr)
    # No timeout: the image is large, and the engine reports an unreachable registry quickly.
    done = subprocess.run(["docker", "pull", reference], stdout=sys.stderr, check=False)
    if done.returncode:
        raise MachineError(
            f"the DTK image {reference} is not on this machine and cannot be pulled",
            where="dtk_image",
            remedy="transfer it (docker save, docker load), or name another registry or image"
            " in paddle-stacks.toml: registry, dtk_image (the Dockerfile names the newer host);"
            " without a DCU, --backend dcu-sim builds the same stages",
        )
    return _require(client, reference)


def resolve(settings: Settings, client: docker.DockerClient) -> OsImage:
    """Return the OS image, after pulling or bootstrapping it if necessary.

    An existing image is used first: the registry's, then a bootstrapped one. An image in the
    settings is never replaced by a bootstrapped one.

    Raises:
        MachineError: it cannot be pulled and this machine cannot bootstrap it.
        BuildError: the bootstrap failed.
    """
    reference = settings.os_image or default_reference(settings.root / "Dockerfile")
    if settings.registry and not settings.os_image:
        reference = f"{settings.registry.rstrip('/')}/{reference}"
    if image := _local(client, reference):
        return image
    if not settings.os_image and (image := _local(client, BOOTSTRAPPED)):
        return image
    print(f"pulling {reference}", file=sys.stderr)
    if _pull(reference):
        return _require(client, reference)
    if settings.os_image:
        raise MachineError(
            f"the OS image {reference} is not on this machine and cannot be pulled",
            where="os_image",
            remedy="load it (docker load), or leave os_image unset to bootstrap Debian",
        )
    print("no registry answers: bootstrapping Debian from its packages", file=sys.stderr)
    _bootstrap(settings)
    return _require(client, BOOTSTRAPPED)


def recorded_name(image: OsImage, dockerfile: Path, argument: str = "OS_IMAGE") -> str:
    """Return the name under which an image's digest is recorded, whatever mirror it is from."""
    default = default_reference(dockerfile, argument)
    path = default.partition("/")[2] or default
    same = image.reference == default or image.reference.endswith(f"/{path}")
    return default if same else image.reference


def _local(client: docker.DockerClient, reference: str) -> OsImage | None:
    from docker.errors import ImageNotFound

    try:
        attributes = client.images.get(reference).attrs
    except ImageNotFound:
        return None
    digests = tuple(name.rpartition("@")[2] for name in attributes.get("RepoDigests") or ())
    source = "bootstrap" if reference == BOOTSTRAPPED else "registry"
    return OsImage(reference, digests[0] if digests else attributes["Id"], source, digests)


def _require(client: docker.DockerClient, reference: str) -> OsImage:
    image = _local(client, reference)
    if image is None:
        raise BuildError(
            f"the image {reference} was removed during the build",
            remedy="build again; something on this machine removes images",
        )
    return image


def _pull(reference: str) -> bool:
    """Pull an image; return False if no registry answers in time."""
    try:
        done = subprocess.run(
            ["docker", "pull", "--quiet", reference],
            capture_output=True,
            timeout=_PULL_SECONDS if "/" not in reference else 10 * _PULL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _bootstrap(settings: Settings) -> None:
    if "@" in settings.apt_mirror:
        # mmdebstrap writes the mirror into the image's sources.list.
        raise RequestError(
            "apt_mirror contains a login, which would become part of the OS image",
            where="apt_mirror",
            remedy="put the login into /etc/apt/auth.conf.d on this machine",
        )
    _require_mmdebstrap()
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    command += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    if settings.ca_bundle:
        command.append(f'--aptopt=Acquire::https::CaInfo "{settings.ca_bundle}"')
    # The options above are not for the image.
    command.append('--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"')
    command += ["bookworm", "-", *filter(None, [settings.apt_mirror])]
    proxies = {key: getattr(settings, key) for key in ("http_proxy", "https_proxy")}
    # With a fixed date mmdebstrap creates the same archive from the same packages.
    variables = {"SOURCE_DATE_EPOCH": _date(settings.root), **proxies}
    environment = {**os.environ, **{key: value for key, value in variables.items() if value}}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as bootstrap:
        load = subprocess.run(
            ["docker", "import", "-", f"{BOOTSTRAPPED}-new"],
            stdin=bootstrap.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
        message = bootstrap.stderr.read().decode(errors="replace") if bootstrap.stderr else ""
    if bootstrap.returncode or load.returncode:
        lines = (message or load.stderr).strip().splitlines()
        raise BuildError(
            f"bootstrapping Debian failed: {lines[-1] if lines else 'no message'}",
            where="mmdebstrap",
            remedy="check the network settings: apt_mirror, http_proxy, ca_bundle",
        )
    # Only a complete image gets the name.
    subprocess.run(["docker", "tag", f"{BOOTSTRAPPED}-new", BOOTSTRAPPED], check=True)
    subprocess.run(["docker", "rmi", f"{BOOTSTRAPPED}-new"], capture_output=True, check=True)


def _date(root: Path) -> str:
    """Return the date of all files that build steps write, in seconds since 1970."""
    path = root / "images" / "steps" / "finish"
    match = re.search(r"^date=@(\d+)", path.read_text(), re.MULTILINE)
    if not match:
        raise BuildError(
            "no date=@…", where=str(path), remedy=f"restore the file: git checkout {path}"
        )
    return match[1]


def _require_mmdebstrap() -> None:
    if shutil.which("mmdebstrap"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise MachineError(
            "no registry answers, and mmdebstrap, which would bootstrap the OS image, is not"
            " installed",
            remedy="install mmdebstrap, or set registry or os_image in paddle-stacks.toml",
        )
    print("installing mmdebstrap", file=sys.stderr)
    for step in (["update", "-q"], ["install", "-yq", "--no-install-recommends", "mmdebstrap"]):
        done = subprocess.run(["apt-get", *step], capture_output=True, text=True, check=False)
        if done.returncode:
            raise MachineError(
                f"mmdebstrap cannot be installed: {done.stderr.strip().splitlines()[-1:]}",
                remedy="install it manually, or set registry or os_image in paddle-stacks.toml",
            )

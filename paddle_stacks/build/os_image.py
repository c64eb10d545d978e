"""The OS image that everything is built on: pulled, or bootstrapped where no registry answers."""

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

# What Debian's own slim image leaves out.
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclass(frozen=True)
class OsImage:
    """The OS image of a build.

    Args:
        reference: what the Dockerfile's ``FROM`` gets.
        digest: the registry's digest, or the image's own id.
        source: ``registry`` or ``bootstrap``.
        digests: all that registries have for it; none for an image that was made or loaded here.
    """

    reference: str
    digest: str
    source: str
    digests: tuple[str, ...] = ()


def default_reference(dockerfile: Path, argument: str = "OS_IMAGE") -> str:
    """Return the image that the Dockerfile names in an argument."""
    found = re.search(rf"^ARG {argument}=(\S+)$", dockerfile.read_text(), re.MULTILINE)
    if not found:
        raise BuildError(
            f"no ARG {argument}=…", where=str(dockerfile), remedy=f"git checkout {dockerfile.name}"
        )
    return found.group(1)


def dtk_reference(settings: Settings) -> str:
    """Return the DTK's image that a DCU's images start from; empty for other backends.

    ``registry`` stands in for the host in the Dockerfile's default.
    """
    if settings.backend != "dcu":
        return ""
    default = default_reference(settings.root / "Dockerfile", "DTK_IMAGE")
    if settings.registry:
        default = f"{settings.registry.rstrip('/')}/{default.partition('/')[2]}"
    return settings.dtk_image or default


def resolve_dtk(settings: Settings, client: docker.DockerClient) -> OsImage | None:
    """Return the DTK's image, after pulling it if it is not here; None for other backends.

    Raises:
        MachineError: it is not here and cannot be pulled.
    """
    wanted = dtk_reference(settings)
    if not wanted:
        return None
    here = _local(client, wanted)
    if here:
        return here
    print(f"pulling {wanted}, several GB", file=sys.stderr)
    # No limit of time: it is large, and where no registry answers the engine says so soon.
    done = subprocess.run(["docker", "pull", wanted], stdout=sys.stderr, check=False)
    if done.returncode:
        raise MachineError(
            f"the DTK's image {wanted} is not here and cannot be pulled",
            where="dtk_image",
            remedy="carry it over (docker save, docker load), or name another registry or image"
            " in paddle-stacks.toml: registry, dtk_image (the Dockerfile names the newer host);"
            " without a DCU, --backend dcu-sim builds the same stages",
        )
    return _require(client, wanted)


def resolve(settings: Settings, client: docker.DockerClient) -> OsImage:
    """Return the OS image, after pulling or bootstrapping it if it is not here.

    An image that is already here wins, the registry's before the bootstrapped
    one. An image that the settings name is never replaced by a bootstrapped one.

    Raises:
        MachineError: it cannot be pulled and this machine cannot bootstrap it.
        BuildError: the bootstrap failed.
    """
    wanted = settings.os_image or default_reference(settings.root / "Dockerfile")
    if settings.registry and not settings.os_image:
        wanted = f"{settings.registry.rstrip('/')}/{wanted}"
    here = _local(client, wanted)
    if here or (settings.os_image and _pull(wanted)):
        return here or _require(client, wanted)
    if settings.os_image:
        raise MachineError(
            f"the OS image {wanted} is not here and cannot be pulled",
            where="os_image",
            remedy="load it (docker load), or leave os_image unset to bootstrap Debian",
        )
    bootstrapped = _local(client, BOOTSTRAPPED)
    if bootstrapped:
        return bootstrapped
    print(f"pulling {wanted}", file=sys.stderr)
    if _pull(wanted):
        return _require(client, wanted)
    print("no registry answers: bootstrapping Debian from its packages", file=sys.stderr)
    _bootstrap(settings)
    return _require(client, BOOTSTRAPPED)


def recorded_name(image: OsImage, dockerfile: Path, argument: str = "OS_IMAGE") -> str:
    """Return the name by which the digest of an image is recorded: a mirror's is the same."""
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
    found = _local(client, reference)
    if found is None:
        raise BuildError(
            f"the OS image {reference} vanished while it was being used",
            remedy="build again; something on this machine removes images",
        )
    return found


def _pull(reference: str) -> bool:
    """Pull an image; False where no registry answers in time."""
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
            "apt_mirror holds a login, which would be left in the OS image",
            where="apt_mirror",
            remedy="put the login into /etc/apt/auth.conf.d on this machine",
        )
    _require_mmdebstrap()
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    command += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    if settings.ca_bundle:
        command.append(f'--aptopt=Acquire::https::CaInfo "{settings.ca_bundle}"')
    # The options above are for this step alone, not for the image.
    command.append('--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"')
    command += ["bookworm", "-", *filter(None, [settings.apt_mirror])]
    proxies = {key: getattr(settings, key) for key in ("http_proxy", "https_proxy")}
    # mmdebstrap then makes the same archive of the same packages.
    own = {"SOURCE_DATE_EPOCH": _date(settings.root), **proxies}
    environment = {**os.environ, **{key: value for key, value in own.items() if value}}
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
            remedy="check the way to Debian's packages: apt_mirror, http_proxy, ca_bundle",
        )
    # Only a whole image takes the name.
    subprocess.run(["docker", "tag", f"{BOOTSTRAPPED}-new", BOOTSTRAPPED], check=True)
    subprocess.run(["docker", "rmi", f"{BOOTSTRAPPED}-new"], capture_output=True, check=True)


def _date(root: Path) -> str:
    """Return the date of all that the images' steps write, in seconds since 1970."""
    path = root / "images" / "base" / "dated"
    found = re.search(r"^date=@(\d+)", path.read_text(), re.MULTILINE)
    if not found:
        raise BuildError(
            "no date=@…", where=str(path), remedy=f"restore the file: git checkout {path}"
        )
    return found[1]


def _require_mmdebstrap() -> None:
    if shutil.which("mmdebstrap"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise MachineError(
            "no registry answers, and mmdebstrap, which makes the OS image instead, is not here",
            remedy="install mmdebstrap, or set registry or os_image in paddle-stacks.toml",
        )
    print("installing mmdebstrap", file=sys.stderr)
    for step in (["update", "-q"], ["install", "-yq", "--no-install-recommends", "mmdebstrap"]):
        done = subprocess.run(["apt-get", *step], capture_output=True, text=True, check=False)
        if done.returncode:
            raise MachineError(
                f"mmdebstrap cannot be installed: {done.stderr.strip().splitlines()[-1:]}",
                remedy="install it by hand, or set registry or os_image in paddle-stacks.toml",
            )

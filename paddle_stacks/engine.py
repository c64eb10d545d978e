"""The Docker Engine: connect to it, or install it.

A running engine is used as is. Otherwise :func:`ensure` installs the packages of Debian or
Ubuntu, as root only and after a message. On other systems it fails with the next step.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_stacks.errors import MachineError

if TYPE_CHECKING:
    import docker

__all__ = ["Distribution", "connect", "ensure", "packages_for"]

# Debian 12's engine (20.10) has no Compose v2 and no buildx, so these packages come from
# Debian 13. The C library and everything else stay as they are.
_FROM_TRIXIE = ("docker.io", "docker-cli", "docker-buildx", "docker-compose", "containerd")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SOURCES = Path("/etc/apt/sources.list.d/paddle-stacks-engine.sources")
_PREFERENCES = Path("/etc/apt/preferences.d/paddle-stacks-engine")
_DAEMON_LOG = Path("/var/log/dockerd.log")
_START_SECONDS = 60


@dataclass(frozen=True)
class Distribution:
    """The distribution of this machine, from ``/etc/os-release``.

    Args:
        name: ``debian``, ``ubuntu``, …
        version: ``12``, ``24.04``, …
    """

    name: str
    version: str


def connect() -> docker.DockerClient:
    """Return a client of the running engine.

    Raises:
        MachineError: no engine responds.
    """
    import docker

    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise MachineError(
            f"the Docker Engine does not respond: {_reason(error)}",
            where=os.environ.get("DOCKER_HOST", "/var/run/docker.sock"),
            remedy="start it; on Debian and Ubuntu: sudo ./inv setup",
        ) from error
    return client


def ensure() -> bool:
    """Ensure that an engine with buildx and Compose v2 is running.

    Returns:
        Whether an engine had to be started.

    Raises:
        MachineError: it cannot be installed here, or the installation or the start failed.
    """
    started = False
    try:
        connect()
    except MachineError as error:
        if not shutil.which("dockerd"):
            _install(error)
        _start()
        started = True
    _require_plugins()
    return started


def packages_for(distribution: Distribution) -> tuple[str, ...]:
    """Return the packages of engine, buildx and Compose v2; empty if they are unknown."""
    if distribution.name == "debian":
        return (*_FROM_TRIXIE, "iptables")
    if distribution.name == "ubuntu":
        return ("docker.io", "docker-buildx", "docker-compose-v2", "iptables")
    return ()


def this_distribution() -> Distribution:
    """Return the distribution of this machine."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return Distribution("unknown", "")
    return Distribution(release.get("ID", "unknown"), release.get("VERSION_ID", ""))


def _install(cause: MachineError) -> None:
    distribution = this_distribution()
    packages = packages_for(distribution)
    if not packages:
        raise MachineError(
            f"Docker Engine is not installed, and cannot be installed automatically on "
            f"{distribution.name}",
            remedy="install Docker Engine 24 or newer with buildx and Compose v2, then start again",
        ) from cause
    if os.geteuid() != 0:
        raise MachineError(
            "Docker Engine is not installed, and only root can install it",
            remedy="sudo ./inv setup",
        ) from cause
    print(f"the Docker Engine does not respond; installing {' '.join(packages)}", file=sys.stderr)
    pinned = distribution == Distribution("debian", "12")
    try:
        if pinned:
            _pin_to_trixie()
        _apt("update", "-q")
        _apt("install", "-yq", "--no-install-recommends", *packages)
    except (OSError, MachineError):
        if pinned:
            _SOURCES.unlink(missing_ok=True)
            _PREFERENCES.unlink(missing_ok=True)
        raise


def _pin_to_trixie() -> None:
    site = _debian_mirror()
    print(f"these packages are from Debian 13: {_SOURCES}, {_PREFERENCES}", file=sys.stderr)
    _PREFERENCES.write_text(
        "# Written by paddle-stacks: Docker from Debian 13, nothing else.\n"
        "Package: *\nPin: release n=trixie\nPin-Priority: -1\n\n"
        f"Package: {' '.join(_FROM_TRIXIE)}\nPin: release n=trixie\nPin-Priority: 990\n"
    )
    _SOURCES.write_text(
        f"Types: deb\nURIs: {site}\nSuites: trixie\nComponents: main\nSigned-By: {_KEYRING}\n"
    )


def _debian_mirror() -> str:
    """Return this machine's mirror of Debian 12."""
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for line in listing.splitlines():
        codename, component, site = [*line.split(), "", "", ""][:3]
        if codename == "bookworm" and component == "main" and site:
            return site
    raise MachineError(
        "apt has no source of Debian 12 (bookworm main)",
        where="/etc/apt/sources.list.d",
        remedy="add Debian's own source, then: ./inv setup",
    )


def _apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-o", "Dpkg::Use-Pty=0", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise MachineError(
            f"apt-get {arguments[0]} failed: {lines[-1] if lines else done.returncode}",
            remedy=f"run it to see its output: {' '.join(command)}",
        )


def _start() -> None:
    if os.geteuid() != 0:
        raise MachineError(
            "the Docker Engine is installed but does not respond",
            remedy="sudo systemctl start docker, as a member of the group docker; or "
            "sudo ./inv setup",
        )
    print("starting the Docker Engine", file=sys.stderr)
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "start", "docker"], check=False)
    else:
        with _DAEMON_LOG.open("ab") as log:
            subprocess.Popen(
                ["dockerd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    _wait_until_ready()


def _wait_until_ready() -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            connect()
            return
        except MachineError as error:
            if time.monotonic() > deadline:
                raise MachineError(
                    f"the Docker Engine did not respond within {_START_SECONDS} s",
                    where=str(_DAEMON_LOG),
                    remedy=f"read its log: {_last_line(_DAEMON_LOG)}",
                ) from error
        time.sleep(0.3)


def _last_line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip().splitlines()[-1]
    except (OSError, IndexError):
        return "journalctl -u docker"


def _require_plugins() -> None:
    for plugin, package in (("buildx", "docker-buildx"), ("compose", "docker-compose")):
        try:
            status = subprocess.run(
                ["docker", plugin, "version"], capture_output=True, check=False
            ).returncode
        except FileNotFoundError:
            raise MachineError(
                "the docker command does not exist", remedy="install the package docker-cli"
            ) from None
        if status:
            raise MachineError(
                f"the docker command has no {plugin}",
                remedy=f"install the package {package}, or Docker's own docker-{plugin}-plugin",
            )


def _reason(error: BaseException) -> str:
    text = str(error)
    if "FileNotFoundError" in text or "No such file" in text:
        return "no socket"
    if "PermissionError" in text or "Permission denied" in text:
        return "this user has no access to it"
    if "Connection refused" in text or "ConnectionRefused" in text:
        return "connection refused"
    return text.splitlines()[0] if text else type(error).__name__

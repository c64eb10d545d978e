"""The Docker Engine: reach one, or install one where that is ours to do.

An engine that answers is used and never touched. Where none does, :func:`ensure`
installs Debian's or Ubuntu's own packages, as root only, and says so first;
anywhere else it ends with the next step for a person.
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

# Debian 12's own engine (20.10) has no Compose v2 and no buildx: these five come from
# Debian 13. The C library and all else stay Debian 12's.
_FROM_TRIXIE = ("docker.io", "docker-cli", "docker-buildx", "docker-compose", "containerd")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SOURCES = Path("/etc/apt/sources.list.d/paddle-stacks-engine.sources")
_PREFERENCES = Path("/etc/apt/preferences.d/paddle-stacks-engine")
_DAEMON_LOG = Path("/var/log/dockerd.log")
_START_SECONDS = 60


@dataclass(frozen=True)
class Distribution:
    """What ``/etc/os-release`` says of this machine.

    Args:
        name: ``debian``, ``ubuntu``, …
        version: ``12``, ``24.04``, …
    """

    name: str
    version: str


def connect() -> docker.DockerClient:
    """Return a client of the engine that answers.

    Raises:
        MachineError: none does.
    """
    import docker

    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise MachineError(
            f"no Docker Engine answers: {_reason(error)}",
            where=os.environ.get("DOCKER_HOST", "/var/run/docker.sock"),
            remedy="start it, or let ./inv setup do it (as root on Debian or Ubuntu)",
        ) from error
    return client


def ensure() -> bool:
    """Make sure that an engine with buildx and Compose v2 answers.

    Returns:
        Whether an engine had to be started.

    Raises:
        MachineError: there is none and it is not ours to install, or the
            installation or the start failed; the remedy is the next step.
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
    """Return the packages that bring engine, buildx and Compose v2; empty if not known."""
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
            f"no Docker Engine, and no way to install one on {distribution.name} is known here",
            remedy="install Docker Engine 24 or newer with buildx and Compose v2, then start again",
        ) from cause
    if os.geteuid() != 0:
        raise MachineError(
            "no Docker Engine, and only root may install one",
            remedy="run once: sudo ./inv setup",
        ) from cause
    print(f"no Docker Engine answers: installing {' '.join(packages)}", file=sys.stderr)
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
    print(f"on Debian 12 these come from Debian 13: {_SOURCES}, {_PREFERENCES}", file=sys.stderr)
    _PREFERENCES.write_text(
        "# Written by paddle-stacks: Docker from Debian 13, nothing else.\n"
        "Package: *\nPin: release n=trixie\nPin-Priority: -1\n\n"
        f"Package: {' '.join(_FROM_TRIXIE)}\nPin: release n=trixie\nPin-Priority: 990\n"
    )
    _SOURCES.write_text(
        f"Types: deb\nURIs: {site}\nSuites: trixie\nComponents: main\nSigned-By: {_KEYRING}\n"
    )


def _debian_mirror() -> str:
    """Return the mirror that this machine takes Debian 12 from."""
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
        "apt names no source of Debian 12 (bookworm main)",
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
            remedy=f"see what it says: {' '.join(command)}",
        )


def _start() -> None:
    if os.geteuid() != 0:
        raise MachineError(
            "the Docker Engine is installed but does not answer",
            remedy="start it (sudo systemctl start docker) and be in the group docker, "
            "or run: sudo ./inv setup",
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
    _wait_until_it_answers()


def _wait_until_it_answers() -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            connect()
            return
        except MachineError as error:
            if time.monotonic() > deadline:
                raise MachineError(
                    f"the Docker Engine did not answer within {_START_SECONDS} s",
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
                "no docker command", remedy="install Docker's command line (docker-cli)"
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
        return "this user may not use it"
    if "Connection refused" in text or "ConnectionRefused" in text:
        return "connection refused"
    return text.splitlines()[0] if text else type(error).__name__

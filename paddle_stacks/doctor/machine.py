"""The machine that the checks inspect; each fact is looked up at most once."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_stacks.dcu import host, smi
from paddle_stacks.errors import MachineError
from paddle_stacks.plan.backend import Backend
from paddle_stacks.settings import Settings

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["Machine", "command", "memory_mib"]

_ENGINE_SECONDS = 15
_COMMAND_SECONDS = 30


def command(arguments: Sequence[str]) -> str:
    """Run a program and return its standard output.

    Raises:
        MachineError: it is missing, fails, or takes longer than 30 s.
    """
    shown = " ".join(arguments)
    try:
        process = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise MachineError(
            f"{arguments[0]} is not installed", remedy="install the package that contains it"
        ) from error
    except OSError as error:
        raise MachineError(
            f"{shown} cannot be started: {error.strerror}",
            remedy="check that this user may execute it",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"{shown} timed out after {_COMMAND_SECONDS} s",
            remedy="run it by hand to see what it waits for",
        ) from error
    if process.returncode:
        errors = process.stderr.decode("utf-8", "replace").strip().splitlines()
        raise MachineError(
            f"{shown} failed: {errors[-1] if errors else f'status {process.returncode}'}",
            remedy="run it by hand to see its output",
        )
    return process.stdout.decode("utf-8", "replace")


def memory_mib() -> int:
    """Return this machine's memory in MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _connect() -> DockerClient:
    """Return a client of the engine; fail within seconds if the engine hangs.

    Raises:
        MachineError: no engine responds.
    """
    import docker
    import requests

    from paddle_stacks import engine

    try:
        docker.from_env(timeout=_ENGINE_SECONDS).ping()
    except requests.exceptions.ReadTimeout as error:
        raise MachineError(
            f"the Docker Engine accepts connections but did not respond within {_ENGINE_SECONDS} s",
            remedy="check its log (journalctl -u docker), then restart it",
        ) from error
    except (docker.errors.DockerException, OSError):
        pass  # connect() below raises it as a MachineError.
    return engine.connect()


def _addresses(name: str) -> tuple[str, ...]:
    """Resolve a host name on this machine; empty if it cannot be resolved."""
    try:
        entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in entries))


@dataclass(frozen=True)
class Machine:
    """A machine, and the backend and nodes that it is checked for.

    All access to the system goes through fields that tests replace.

    Args:
        settings: of this command; ``host_root`` is the root of the DCU host.
        backend: the backend that the machine is checked for.
        nodes: the hosts of a job on several nodes; empty for one node.
        connect: returns a client of the engine, or raises a ``MachineError``.
        run: runs a program, as :func:`command` does.
        read_cards: reads the cards below a root, as ``smi.read`` does.
        addresses: resolves a host name; empty if it cannot be resolved.
    """

    settings: Settings
    backend: Backend
    nodes: tuple[str, ...] = ()
    connect: Callable[[], DockerClient] = _connect
    run: Callable[[Sequence[str]], str] = command
    read_cards: Callable[[Path], tuple[smi.Card, ...]] = smi.read
    addresses: Callable[[str], tuple[str, ...]] = _addresses

    @property
    def root(self) -> Path:
        """The folder that the host's paths are below: ``/``, or a simulated host."""
        return self.settings.host_root

    @property
    def simulated(self) -> bool:
        """Whether the host is a simulated one: a folder of this machine."""
        return self.root.resolve() != Path("/")

    @property
    def client(self) -> DockerClient | None:
        """A client of the engine; None if no engine responds."""
        return None if isinstance(self.engine, MachineError) else self.engine

    @cached_property
    def engine(self) -> DockerClient | MachineError:
        """A client of the engine, or the error that connecting raised."""
        try:
            return self.connect()
        except MachineError as error:
            return error

    @cached_property
    def engine_info(self) -> dict[str, Any]:
        """The output of ``docker info``; empty if no engine responds."""
        return dict(self.client.info()) if self.client else {}

    @cached_property
    def host(self) -> host.Host:
        """The host's DCU resources."""
        return host.look(self.root)

    @cached_property
    def cards(self) -> tuple[smi.Card, ...] | MachineError:
        """The cards, or the error that reading them raised."""
        try:
            return self.read_cards(self.root)
        except MachineError as error:
            return error

    @cached_property
    def host_name(self) -> str:
        """The host's own name."""
        if not self.simulated:
            return socket.gethostname()
        return (self.read("/etc/hostname") or "").strip()

    def read(self, path: str) -> str | None:
        """Return the text of a file of the host; None if it cannot be read."""
        try:
            return host.inside(self.root, path).read_text(encoding="utf-8", errors="replace")
        except (OSError, MachineError):
            return None

    def resolve(self, name: str) -> tuple[str, ...]:
        """Resolve a host name; a simulated host has its own ``/etc/hosts``."""
        if not self.simulated:
            return self.addresses(name)
        lines = (
            line.partition("#")[0].split() for line in (self.read("/etc/hosts") or "").splitlines()
        )
        addresses = tuple(words[0] for words in lines if name in words[1:])
        return addresses or (() if name == self.host_name else self.addresses(name))

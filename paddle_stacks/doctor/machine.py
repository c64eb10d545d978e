"""The machine that the checks look at; everything is looked up at most once."""

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
        MachineError: it is not there, fails, or takes longer than 30 s.
    """
    shown = " ".join(arguments)
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise MachineError(
            f"there is no program {arguments[0]}", remedy="install the package that has it"
        ) from error
    except OSError as error:
        raise MachineError(
            f"{shown} cannot be started: {error.strerror}",
            remedy="see whether this user may run it",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"{shown} does not end within {_COMMAND_SECONDS} s",
            remedy="run it by hand: what it waits for is what is wrong",
        ) from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise MachineError(
            f"{shown} failed: {said[-1] if said else f'status {done.returncode}'}",
            remedy="run it by hand",
        )
    return done.stdout.decode("utf-8", "replace")


def memory_mib() -> int:
    """Return how much memory this machine has, in MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _connect() -> DockerClient:
    """Return a client of the engine; one that hangs is told of within seconds.

    Raises:
        MachineError: none answers.
    """
    import docker
    import requests

    from paddle_stacks import engine

    try:
        docker.from_env(timeout=_ENGINE_SECONDS).ping()
    except requests.exceptions.ReadTimeout as error:
        raise MachineError(
            f"the Docker Engine takes connections but gives no answer within {_ENGINE_SECONDS} s",
            remedy="see what it says (journalctl -u docker), then restart it",
        ) from error
    except (docker.errors.DockerException, OSError):
        pass  # connect() tells of it as the project does.
    return engine.connect()


def _addresses(name: str) -> tuple[str, ...]:
    """Return the addresses that a host's name has here; none where it has none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class Machine:
    """A machine, and what is wanted of it.

    What tells about the world can be replaced, which is how tests make machines.

    Args:
        settings: of this command; ``host_root`` is where a DCU is looked for.
        backend: the platform that it is to be fit for.
        nodes: the hosts of a job on several nodes; empty for one node.
        connect: returns a client of the engine, or raises a ``MachineError``.
        run: runs a program, as :func:`command` does.
        read_cards: reads the cards below a root, as ``smi.read`` does.
        addresses: resolves a host's name; empty where it cannot be resolved.
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
        """Whether the host that is looked at is a folder of this one."""
        return self.root.resolve() != Path("/")

    @property
    def client(self) -> DockerClient | None:
        """A client of the engine; None where none answers."""
        return None if isinstance(self.engine, MachineError) else self.engine

    @cached_property
    def engine(self) -> DockerClient | MachineError:
        """A client of the engine, or why there is none."""
        try:
            return self.connect()
        except MachineError as error:
            return error

    @cached_property
    def engine_info(self) -> dict[str, Any]:
        """What ``docker info`` says; empty where no engine answers."""
        return dict(self.client.info()) if self.client else {}

    @cached_property
    def host(self) -> host.Host:
        """What the host offers to a container that wants its DCUs."""
        return host.look(self.root)

    @cached_property
    def cards(self) -> tuple[smi.Card, ...] | MachineError:
        """The cards, or why they cannot be told."""
        try:
            return self.read_cards(self.root)
        except MachineError as error:
            return error

    @cached_property
    def host_name(self) -> str:
        """The name that the host has for itself."""
        if not self.simulated:
            return socket.gethostname()
        return (self.read("/etc/hostname") or "").strip()

    def read(self, path: str) -> str | None:
        """Return the text of a file of the host; None where there is none to read."""
        try:
            return host.inside(self.root, path).read_text(encoding="utf-8", errors="replace")
        except (OSError, MachineError):
            return None

    def resolve(self, name: str) -> tuple[str, ...]:
        """Return the addresses of a host's name; a simulated host has its own ``/etc/hosts``."""
        if not self.simulated:
            return self.addresses(name)
        lines = (
            line.partition("#")[0].split() for line in (self.read("/etc/hosts") or "").splitlines()
        )
        found = tuple(words[0] for words in lines if name in words[1:])
        return found or (() if name == self.host_name else self.addresses(name))

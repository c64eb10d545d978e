"""Fake machines for the doctor's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker.errors

from paddle_stacks.dcu.smi import Card
from paddle_stacks.doctor import CHECKS, Finding, Machine
from paddle_stacks.errors import MachineError
from paddle_stacks.plan import backend
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]

# The checks that read only the (possibly simulated) host.
OF_THE_HOST = (
    "device-nodes",
    "device-access",
    "hyhal",
    "driver",
    "driver-dtk",
    "combinations",
    "hy-smi",
    "cards-busy",
    "card-memory",
    "card-type",
    "shm",
    "iommu",
    "numa-balancing",
    "message-queues",
    "adapters",
    "host-name",
)

NO_ENGINE = MachineError(
    "the Docker Engine does not respond: no socket", where="/var/run/docker.sock", remedy="fix it"
)


@dataclass
class Image:
    labels: dict[str, str] = field(default_factory=dict)


class Images:
    def __init__(self, by_tag: dict[str, Image]) -> None:
        self.by_tag = by_tag

    def get(self, tag: str) -> Image:
        if tag not in self.by_tag:
            raise docker.errors.ImageNotFound(tag)
        return self.by_tag[tag]


class Containers:
    def __init__(self, output: bytes | Exception) -> None:
        self.output = output
        self.options: dict[str, Any] = {}

    def run(self, image: str, command: list[str], **options: Any) -> bytes:
        self.options = {"image": image, "command": command, **options}
        if isinstance(self.output, Exception):
            raise self.output
        return self.output


class Engine:
    def __init__(
        self,
        version: str = "26.1.5",
        store: Path = Path("/"),
        images: dict[str, Image] | None = None,
        output: bytes | Exception = b"",
    ) -> None:
        self._version, self._store = version, store
        self.images = Images(images or {})
        self.containers = Containers(output)

    def version(self) -> dict[str, str]:
        return {"Version": self._version}

    def info(self) -> dict[str, Any]:
        return {"DockerRootDir": str(self._store), "DriverStatus": [["Backing Filesystem", "x"]]}


def commands(**outputs: str) -> Any:
    """Return a ``run`` with the outputs of commands that contain a word."""

    def run(arguments: Sequence[str]) -> str:
        line = " ".join(arguments)
        for word, output in outputs.items():
            if word in line:
                return output
        raise MachineError(f"{arguments[0]} is not installed", remedy="fix it")

    return run


def cards(*detected: Card) -> Any:
    return lambda root: tuple(detected)


def machine(
    tmp_path: Path,
    platform: str = "dcu",
    *,
    engine: Any = NO_ENGINE,
    nodes: tuple[str, ...] = (),
    settings: dict[str, Any] | None = None,
    **others: Any,
) -> Machine:
    """Return a machine with an empty folder as its host and, by default, without an engine."""
    host, workspace = tmp_path / "host", tmp_path / "workspace"
    for folder in (host, workspace):
        folder.mkdir(exist_ok=True)
    values = {"workspace": workspace, "backend": platform, "host_root": host, **(settings or {})}

    def connect() -> Any:
        if isinstance(engine, MachineError):
            raise engine
        return engine

    return Machine(
        Settings(root=ROOT, **values),
        backend.load(platform, ROOT),
        nodes,
        connect=connect,
        **{"run": commands(), "addresses": lambda name: (), **others},
    )


def run(name: str, of: Machine) -> Finding:
    return next(check for check in CHECKS if check.name == name).run(of)


def write(root: Path, path: str, text: str) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)

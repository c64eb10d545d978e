"""Detect what a container needs from a DCU host: device nodes, user land, driver.

Paths are those of a real host and of the container (``/dev/kfd``); their location on
this machine depends on ``root``, which is ``/`` except for a simulated host.
"""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import MachineError

__all__ = [
    "FOLDERS",
    "HYHAL",
    "MODULES",
    "Driver",
    "Host",
    "Node",
    "adapters",
    "inside",
    "look",
    "shm_mib",
]

HYHAL = "/opt/hyhal"
"""The driver's user land; every container must use the host's."""

MODULES = ("hycu", "hydcu", "amdgpu")
"""Names of the kernel module, newest first: from 6.3 on, up to 6.2, before that."""

_NODES = ("/dev/kfd", "/dev/mkfd", "/dev/dri", "/dev/infiniband")
FOLDERS = ("/dev/dri", "/dev/infiniband")
"""Folders of device nodes."""
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}  # of a tmpfs's size
_MAX_LINKS = 40  # the kernel's limit


@dataclass(frozen=True)
class Node:
    """A device node, or a directory of device nodes.

    Args:
        path: path on a real host and in the container.
        source: path on this machine.
        gid: numeric group; group names differ between host and container.
        mode: permission bits.
    """

    path: str
    source: str
    gid: int
    mode: int


@dataclass(frozen=True)
class Driver:
    """The kernel driver.

    Args:
        module: one of :data:`MODULES`.
        version: as reported by the module: ``6.2.17a``, ``6.3.31-V1.5.0a``.
    """

    module: str
    version: str


@dataclass(frozen=True)
class Host:
    """The DCU resources of a host.

    Args:
        root: the folder that the host's paths are below.
        nodes: ``/dev/kfd``, ``/dev/mkfd``, ``/dev/dri`` and the nodes in it that exist.
        hyhal: the real folder of :data:`HYHAL` on this machine, links resolved; None if
            it does not exist.
        driver: None if no module is loaded.
    """

    root: Path
    nodes: tuple[Node, ...]
    hyhal: str | None
    driver: Driver | None

    def node(self, path: str) -> Node | None:
        """Return the node with this path, or None."""
        return next((node for node in self.nodes if node.path == path), None)

    def gids(self, paths: Iterable[str]) -> tuple[int, ...]:
        """Return the groups that own the nodes, sorted, without duplicates.

        Args:
            paths: of nodes; a directory includes the nodes in it.

        Returns:
            Numeric groups without root's, which no container should get.
        """
        paths = tuple(paths)
        directories = tuple(path.rstrip("/") + "/" for path in paths)
        gids = {n.gid for n in self.nodes if n.path in paths or n.path.startswith(directories)}
        return tuple(sorted(gids - {0}))


def look(root: Path = Path("/")) -> Host:
    """Return the DCU resources of the host below ``root``, without changing anything."""
    nodes = [node for path in _NODES if (node := _node(root, path))]
    dri = root / "dev" / "dri"
    inner = sorted(_names(dri), key=lambda name: (name.rstrip("0123456789"), len(name), name))
    nodes += [node for name in inner if (node := _node(root, f"/dev/dri/{name}"))]
    hyhal = inside(root, HYHAL)
    return Host(root, tuple(nodes), str(hyhal) if hyhal.is_dir() else None, _driver(root))


def adapters(root: Path = Path("/")) -> tuple[str, ...]:
    """Return the names of the host's RDMA adapters, sorted: ``mlx5_0``, ``shca_0``."""
    try:
        return tuple(sorted(path.name for path in (root / "sys/class/infiniband").iterdir()))
    except OSError:
        return ()


def shm_mib(root: Path = Path("/")) -> int | None:
    """Return the size of the host's own ``/dev/shm`` in MiB; None if it is unknown."""
    if root == Path("/"):
        try:
            return shutil.disk_usage("/dev/shm").total // 2**20
        except OSError:
            return None
    try:
        mounts = (root / "proc" / "mounts").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^\S+ /dev/shm tmpfs \S*\bsize=(\d+)([kmg]?)", mounts, re.MULTILINE)
    return int(match[1]) * _UNITS.get(match[2], 1) // 2**20 if match else None


def inside(root: Path, path: str) -> Path:
    """Return the location of the host's ``path`` on this machine, with all links resolved.

    As in a chroot, an absolute link stays below ``root``, and ``..`` does not leave it.

    Args:
        root: the folder that the host's paths are below.
        path: absolute path on the host; it need not exist.

    Raises:
        MachineError: the links form a loop.
    """
    resolved: list[str] = []
    remaining = [part for part in reversed(path.split("/")) if part]
    followed = 0
    while remaining:
        part = remaining.pop()
        if part == ".." and resolved:
            resolved.pop()
        if part in ("..", "."):
            continue
        here = root.joinpath(*resolved, part)
        if not here.is_symlink():
            resolved.append(part)
            continue
        followed += 1
        if followed > _MAX_LINKS:
            raise MachineError(
                f"{path}: too many levels of symbolic links", where=str(here), remedy="fix the link"
            )
        target = str(here.readlink())
        resolved = [] if target.startswith("/") else resolved
        remaining += [piece for piece in reversed(target.split("/")) if piece]
    return root.joinpath(*resolved)


def _node(root: Path, path: str) -> Node | None:
    source = root / path.lstrip("/")
    try:
        status = source.stat()
    except OSError:
        return None
    return Node(path, str(source), status.st_gid, stat.S_IMODE(status.st_mode))


def _names(folder: Path) -> list[str]:
    # Containers need neither by-path nor anything else in the folder.
    try:
        return [p.name for p in folder.iterdir() if p.name.startswith(("card", "renderD"))]
    except OSError:
        return []


def _driver(root: Path) -> Driver | None:
    for module in MODULES:
        try:
            text = (root / "sys" / "module" / module / "version").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if version := text.strip():
            return Driver(module, version)
    return None

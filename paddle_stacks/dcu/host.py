"""What a host offers to a container that wants its DCUs: nodes, user land, driver.

Paths are those of a real host and of the container (``/dev/kfd``); where they are
on this machine depends on ``root``, which is ``/`` except for a simulated host.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import MachineError

__all__ = ["HYHAL", "MODULES", "Driver", "Host", "Node", "inside", "look"]

HYHAL = "/opt/hyhal"
"""The driver's user land, which must be the host's own in every container."""

MODULES = ("hycu", "hydcu", "amdgpu")
"""The kernel module's names, the newest first: from 6.3 on, up to 6.2, very old."""

_NODES = ("/dev/kfd", "/dev/mkfd", "/dev/dri")
_MAXIMUM_LINKS = 40  # as the kernel has it


@dataclass(frozen=True)
class Node:
    """A device node, or the directory of several.

    Args:
        path: as on a real host and in the container.
        source: where it is on this machine.
        gid: its group, numeric: a container has names of its own for groups.
        mode: the permission bits.
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
        version: as the module says it: ``6.2.17a``, ``6.3.31-V1.5.0a``.
    """

    module: str
    version: str


@dataclass(frozen=True)
class Host:
    """What was found.

    Args:
        root: the folder that the host's paths are below.
        nodes: ``/dev/kfd``, ``/dev/mkfd``, ``/dev/dri`` and the nodes in that, as
            far as they exist.
        hyhal: the real folder of :data:`HYHAL` on this machine, links followed;
            None where there is none.
        driver: None where no module is loaded.
    """

    root: Path
    nodes: tuple[Node, ...]
    hyhal: str | None
    driver: Driver | None

    def node(self, path: str) -> Node | None:
        """Return the node of that path, or None."""
        return next((node for node in self.nodes if node.path == path), None)

    def gids(self, paths: Iterable[str]) -> tuple[int, ...]:
        """Return the groups that open the nodes, in order, each once.

        Args:
            paths: of nodes; a directory stands for the nodes in it too.

        Returns:
            Numeric groups without root's, which nobody should be given.
        """
        wanted = tuple(paths)
        inner = tuple(path.rstrip("/") + "/" for path in wanted)
        found = {n.gid for n in self.nodes if n.path in wanted or n.path.startswith(inner)}
        return tuple(sorted(found - {0}))


def look(root: Path = Path("/")) -> Host:
    """Return what the host below ``root`` offers; it is only read."""
    nodes = [node for path in _NODES if (node := _node(root, path))]
    dri = root / "dev" / "dri"
    inner = sorted(_names(dri), key=lambda name: (name.rstrip("0123456789"), len(name), name))
    nodes += [node for name in inner if (node := _node(root, f"/dev/dri/{name}"))]
    hyhal = inside(root, HYHAL)
    return Host(root, tuple(nodes), str(hyhal) if hyhal.is_dir() else None, _driver(root))


def inside(root: Path, path: str) -> Path:
    """Return where the host's ``path`` is on this machine, every link followed.

    An absolute link leads to a path of the host, hence below ``root`` again, and
    ``..`` does not lead out of it, as in a container.

    Args:
        root: the folder that the host's paths are below.
        path: absolute, on the host; it need not exist.

    Raises:
        MachineError: links that lead in a circle.
    """
    found: list[str] = []
    left = [part for part in reversed(path.split("/")) if part]
    followed = 0
    while left:
        part = left.pop()
        if part == ".." and found:
            found.pop()
        if part in ("..", "."):
            continue
        here = root.joinpath(*found, part)
        if not here.is_symlink():
            found.append(part)
            continue
        followed += 1
        if followed > _MAXIMUM_LINKS:
            raise MachineError(
                f"the links of {path} lead in a circle", where=str(here), remedy="mend the link"
            )
        target = str(here.readlink())
        found = [] if target.startswith("/") else found
        left += [piece for piece in reversed(target.split("/")) if piece]
    return root.joinpath(*found)


def _node(root: Path, path: str) -> Node | None:
    source = root / path.lstrip("/")
    try:
        status = source.stat()
    except OSError:
        return None
    return Node(path, str(source), status.st_gid, stat.S_IMODE(status.st_mode))


def _names(folder: Path) -> list[str]:
    # by-path and whatever else is there is of no use to a container.
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

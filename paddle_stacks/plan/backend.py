"""What a container needs on a platform: one file each in ``configs/backends/``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from paddle_stacks import toml
from paddle_stacks.errors import Problem, RequestError, did_you_mean

__all__ = ["Backend", "load"]

FOLDER = Path("configs", "backends")


@dataclass(frozen=True)
class Backend:
    """A platform that the stack runs on.

    Args:
        name: the file's name; also the images' tag.
        summary: one line about it.
        devices: device nodes of the host that a container may use.
        groups: supplementary groups of a container's user.
        shm_mib: size limit of ``/dev/shm`` in MiB.
        tmp_mib: size limit of ``/tmp`` in MiB.
        ulimits: resource limits, soft and hard alike; -1 is unlimited.
        environment: variables that every job gets.
    """

    name: str
    summary: str
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    shm_mib: int = 1024
    tmp_mib: int = 2048
    ulimits: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def load(name: str, root: Path) -> Backend:
    """Return the backend of that name.

    Args:
        name: a file in ``configs/backends/``, without ``.toml``.
        root: the repository's root.

    Raises:
        RequestError: there is none, or its file is wrong.
    """
    folder = root / FOLDER
    path = folder / f"{name}.toml"
    known = sorted(file.stem for file in folder.glob("*.toml"))
    if name not in known:
        hint = did_you_mean(name, known)
        remedy = f"{hint} backends: {', '.join(known)}".strip()
        raise RequestError(f'no backend is named "{name}"', where=str(folder), remedy=remedy)
    table = toml.read(path)
    if problems := _faults(path, table):
        raise RequestError(problems)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Backend(name=name, **values)


# How the type of each key is said and checked.
_TYPES: dict[str, tuple[str, type, type | None]] = {
    "summary": ("a string", str, None),
    "devices": ("a list of strings", list, str),
    "groups": ("a list of strings", list, str),
    "shm_mib": ("a whole number", int, None),
    "tmp_mib": ("a whole number", int, None),
    "ulimits": ("a table of whole numbers", dict, int),
    "environment": ("a table of strings", dict, str),
}


def _faults(path: Path, table: Mapping[str, Any]) -> list[Problem]:
    known = [item.name for item in fields(Backend) if item.name != "name"]
    problems = toml.unknown_keys(path, table, known)
    if "summary" not in table:
        problems.append(Problem('"summary" is missing', str(path)))
    for key in table:
        if key in _TYPES and not _fits(table[key], *_TYPES[key][1:]):
            said = f'"{key}" must be {_TYPES[key][0]}'
            problems.append(Problem(said, toml.line_of(path, key)))
    return problems


def _fits(value: Any, kind: type[Any], items: type | None) -> bool:
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    if items is None:
        return True
    inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
    return all(isinstance(item, items) and not isinstance(item, bool) for item in inner)

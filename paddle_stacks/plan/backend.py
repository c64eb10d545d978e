"""What a container needs on a platform: one file each in ``configs/backends/``.

A file can extend another (``extends``) and hold profiles: named sets of keys that
replace the platform's own for one run (``--profile NAME``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddle_stacks import toml
from paddle_stacks.errors import Problem, RequestError, did_you_mean, suggest

__all__ = ["Backend", "load", "names", "profiles"]

FOLDER = Path("configs", "backends")


@dataclass(frozen=True)
class Backend:
    """A platform that the stack runs on, in one of its profiles.

    Args:
        name: the file's name; also the images' tag.
        summary: one line about it.
        extends: the backend whose file it builds on; empty for none.
        lock: whose locks its images have: ``images/*/requirements.<lock>.lock``.
        architectures: what operators are compiled for; empty where there are none.
        paddlenlp: what they are compiled from: a folder, or a git URL with a commit.
        profile: the profile that was asked for; empty for none.
        device: what Paddle calls the thing it computes on: ``cpu`` or ``gpu``.
        devices: device nodes of the host that a container gets.
        optional_devices: those it gets where the host has them.
        device_groups: whether the container's user joins the groups of these nodes.
        groups: supplementary groups, where the nodes' own are not asked for or
            cannot be looked at.
        folders: folders of the host that a container sees under the same path.
        writable_folders: whether it may write to them.
        shm_mib: size limit of ``/dev/shm`` in MiB.
        tmp_mib: size limit of ``/tmp`` in MiB.
        pids: how many processes and threads a container can have; 0 is unlimited.
        memory_percent: how much of the machine's memory it can have; 0 is unlimited.
        ulimits: resource limits, soft and hard alike; -1 is unlimited.
        environment: variables that every job gets.
        node_environment: variables that a job on several nodes gets besides.
        card_variable: the variable that picks cards; empty where there are none.
        kubernetes_resources: a card's name as a resource of Kubernetes, for each device
            plugin that can be there; empty where there are no cards.
        slurm_gres: a card's name as a generic resource of Slurm.
        privileged: whether the container has all rights and all devices.
        user: ``uid:gid`` or a name, instead of the caller's; empty for the caller's.
        network: instead of what the job needs; empty for that.
        ipc: ``host`` to share the host's shared memory; empty for one's own.
        cap_add: capabilities given.
        cap_drop: capabilities taken away.
        security_opt: the engine's security options.
        read_only: whether the root file system cannot be written.
    """

    name: str
    summary: str
    extends: str = ""
    lock: str = "cpu"
    architectures: tuple[str, ...] = ()
    paddlenlp: str = ""
    profile: str = ""
    device: str = "cpu"
    devices: tuple[str, ...] = ()
    optional_devices: tuple[str, ...] = ()
    device_groups: bool = False
    groups: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    writable_folders: bool = False
    shm_mib: int = 1024
    tmp_mib: int = 2048
    pids: int = 4096
    memory_percent: int = 95
    ulimits: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    node_environment: Mapping[str, str] = field(default_factory=dict)
    card_variable: str = ""
    kubernetes_resources: Mapping[str, str] = field(default_factory=dict)
    slurm_gres: str = ""
    privileged: bool = False
    user: str = ""
    network: str = ""
    ipc: str = ""
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ("ALL",)
    security_opt: tuple[str, ...] = ("no-new-privileges",)
    read_only: bool = True


def names(root: Path) -> list[str]:
    """Return the names of the platforms, in order."""
    return sorted(file.stem for file in (root / FOLDER).glob("*.toml"))


def profiles(name: str, root: Path) -> list[str]:
    """Return the names of a platform's profiles.

    Raises:
        RequestError: there is no such platform, or its file is wrong.
    """
    return [*_table(name, root).get("profiles", {})]


def load(name: str, root: Path, profile: str = "") -> Backend:
    """Return the backend of that name.

    Args:
        name: a file in ``configs/backends/``, without ``.toml``.
        root: the repository's root.
        profile: one of the file's profiles; empty for none.

    Raises:
        RequestError: there is none, or its file is wrong.
    """
    table = _table(name, root)
    known = table.pop("profiles", {})
    if profile:
        if profile not in known:
            hint = did_you_mean(profile, known)
            listed = f"profiles: {', '.join(known)}" if known else "it has none"
            raise RequestError(
                f'{name} has no profile "{profile}"',
                where=str(root / FOLDER / f"{name}.toml"),
                remedy=f"{hint} {listed}".strip(),
            )
        table |= known[profile]
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Backend(name=name, profile=profile, **values)


def _table(name: str, root: Path) -> dict[str, Any]:
    """Return the checked keys of a backend's file, over those of the file it extends."""
    folder = root / FOLDER
    path = folder / f"{name}.toml"
    known = names(root)
    if name not in known:
        remedy = suggest(name, known, "backends")
        raise RequestError(f'no backend is named "{name}"', where=str(folder), remedy=remedy)
    table = toml.read(path)
    if problems := _faults(path, table):
        raise RequestError(problems)
    parent = table.get("extends")
    if parent == name:
        raise RequestError(
            f'"{name}" extends itself',
            where=toml.line_of(path, "extends"),
            remedy="name another platform's file, or leave it out",
        )
    return {**_table(parent, root), **table} if parent else table


# How the type of each key is said and checked.
_Kind = tuple[str, type, type | None]
_STRING: _Kind = ("a string", str, None)
_STRINGS: _Kind = ("a list of strings", list, str)
_NUMBER: _Kind = ("a whole number", int, None)
_FLAG: _Kind = ("true or false", bool, None)
_VARIABLES: _Kind = ("a table of strings", dict, str)
_TYPES: dict[str, _Kind] = {
    **dict.fromkeys(
        (
            "card_variable",
            "device",
            "ipc",
            "lock",
            "network",
            "paddlenlp",
            "slurm_gres",
            "summary",
            "user",
        ),
        _STRING,
    ),
    **dict.fromkeys(
        (
            "architectures",
            "cap_add",
            "cap_drop",
            "devices",
            "folders",
            "groups",
            "optional_devices",
            "security_opt",
        ),
        _STRINGS,
    ),
    **dict.fromkeys(("memory_percent", "pids", "shm_mib", "tmp_mib"), _NUMBER),
    **dict.fromkeys(("device_groups", "privileged", "read_only", "writable_folders"), _FLAG),
    **dict.fromkeys(("environment", "kubernetes_resources", "node_environment"), _VARIABLES),
    "ulimits": ("a table of whole numbers", dict, int),
}
# What only a whole file has, not a profile.
_FILE_TYPES: dict[str, _Kind] = {"extends": _STRING, "profiles": ("a table of tables", dict, dict)}


def _faults(path: Path, table: Mapping[str, Any]) -> list[Problem]:
    problems = _misfits(path, table, {**_TYPES, **_FILE_TYPES})
    if not {"summary", "extends"} & set(table):
        problems.append(
            Problem('"summary" is missing', str(path), 'one line about the platform: summary = "…"')
        )
    profiles = table.get("profiles", {})
    if not problems:
        problems = [
            problem for keys in profiles.values() for problem in _misfits(path, keys, _TYPES)
        ]
    return problems


def _misfits(path: Path, table: Mapping[str, Any], types: Mapping[str, _Kind]) -> list[Problem]:
    problems = toml.unknown_keys(path, table, types)
    for key in table:
        if key in types and not _fits(table[key], *types[key][1:]):
            said = f'"{key}" must be {types[key][0]}'
            problems.append(
                Problem(
                    said,
                    toml.line_of(path, key),
                    "the other files of configs/backends/ have examples",
                )
            )
    return problems


def _fits(value: Any, kind: type[Any], items: type | None) -> bool:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return False
    if items is None:
        return True
    inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
    return all(isinstance(item, items) and not isinstance(item, bool) for item in inner)

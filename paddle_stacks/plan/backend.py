"""Backends: the container settings of a platform, one file each in ``configs/backends/``.

A file can extend another (``extends``) and define profiles: named sets of keys that
override the backend's for one run (``--profile NAME``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddle_stacks import toml
from paddle_stacks.errors import Problem, RequestError, did_you_mean, suggest
from paddle_stacks.toml import STRING, Kind

__all__ = ["Backend", "load", "names", "profiles"]

FOLDER = Path("configs", "backends")


@dataclass(frozen=True)
class Backend:
    """A backend with one of its profiles applied.

    Args:
        name: the file's name; also the images' tag.
        summary: one-line description.
        extends: the backend whose keys it inherits; empty for none.
        lock: the locks of its images: ``images/*/requirements.<lock>.lock``.
        architectures: targets that operators are compiled for; empty without operators.
        paddlenlp: source of the operators: a folder, or a git URL with a commit.
        profile: the profile; empty for none.
        device: Paddle's device type: ``cpu`` or ``gpu``.
        devices: device nodes of the host that the container gets.
        optional_devices: device nodes that it gets if the host has them.
        node_devices: device nodes that a job on several nodes gets too, if the host has them.
        device_groups: add the groups of these nodes to the container's user.
        groups: supplementary groups, used without ``device_groups`` or if the nodes
            cannot be inspected.
        folders: folders of the host, mounted at the same path.
        writable_folders: mount them writable.
        shm_mib: size limit of ``/dev/shm`` in MiB.
        tmp_mib: size limit of ``/tmp`` in MiB.
        pids: maximum number of processes and threads; 0 for unlimited.
        memory_percent: memory limit in percent of the machine's; 0 for unlimited.
        ulimits: resource limits, soft and hard; -1 for unlimited.
        environment: variables for every job.
        node_environment: additional variables for jobs on several nodes.
        card_variable: the variable that selects devices; empty without devices.
        kubernetes_resources: the Kubernetes resource name of a device, by device plugin;
            empty without devices.
        slurm_gres: the name of a device as a generic resource in Slurm.
        privileged: run with all capabilities and all devices.
        user: ``uid:gid`` or a name; empty for the caller's.
        network: network mode; empty for the one that the job needs.
        ipc: ``host`` to share the host's shared memory; empty for private.
        cap_add: capabilities to add.
        cap_drop: capabilities to drop.
        security_opt: the engine's security options.
        read_only: mount the root file system read-only.
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
    node_devices: tuple[str, ...] = ()
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
    """Return the names of the backends, sorted."""
    return sorted(file.stem for file in (root / FOLDER).glob("*.toml"))


def profiles(name: str, root: Path) -> list[str]:
    """Return the names of a backend's profiles.

    Raises:
        RequestError: there is no such backend, or its file is invalid.
    """
    return [*_table(name, root).get("profiles", {})]


def load(name: str, root: Path, profile: str = "") -> Backend:
    """Load a backend.

    Args:
        name: a file in ``configs/backends/``, without ``.toml``.
        root: the repository's root.
        profile: one of the file's profiles; empty for none.

    Raises:
        RequestError: it does not exist, or its file is invalid.
    """
    table = _table(name, root)
    available = table.pop("profiles", {})
    if profile:
        if profile not in available:
            hint = did_you_mean(profile, available)
            listed = f"profiles: {', '.join(available)}" if available else "remove --profile"
            raise RequestError(
                f'backend {name} has no profile "{profile}"',
                where=str(root / FOLDER / f"{name}.toml"),
                remedy=f"{hint} {listed}".strip(),
            )
        table |= available[profile]
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Backend(name=name, profile=profile, **values)


def _table(name: str, root: Path) -> dict[str, Any]:
    """Return the validated keys of a backend's file, merged over those that it extends."""
    folder = root / FOLDER
    path = folder / f"{name}.toml"
    available = names(root)
    if name not in available:
        remedy = suggest(name, available, "backends")
        raise RequestError(f'unknown backend "{name}"', where=str(folder), remedy=remedy)
    table = toml.read(path)
    if problems := _faults(path, table):
        raise RequestError(problems)
    parent = table.get("extends")
    if parent == name:
        raise RequestError(
            f'"{name}" extends itself',
            where=toml.line_of(path, "extends"),
            remedy="extend another backend, or remove the key",
        )
    return {**_table(parent, root), **table} if parent else table


_KEYS = toml.kinds_of(Backend, without=("name", "profile", "extends"))
# Keys of a file that a profile cannot have.
_FILE_KEYS = {"extends": STRING, "profiles": Kind("a table of tables", dict, dict)}
_REMEDY = "see the other files in configs/backends/ for examples"


def _faults(path: Path, table: Mapping[str, Any]) -> list[Problem]:
    problems = toml.faults(path, table, {**_KEYS, **_FILE_KEYS}, _REMEDY)
    if not {"summary", "extends"} & set(table):
        problems.append(
            Problem('"summary" is missing', str(path), 'add a description: summary = "…"')
        )
    if not problems:
        # Paddle and HIP take an empty list of devices for: none.
        problems = [
            Problem(f"{name} is empty, which hides all devices", str(path), f"remove {name}")
            for section in ("environment", "node_environment")
            for name, value in table.get(section, {}).items()
            if name.endswith("_VISIBLE_DEVICES") and not value.strip()
        ]
    profiles = table.get("profiles", {})
    if not problems:
        problems = [
            problem
            for profile in profiles.values()
            for problem in toml.faults(path, profile, _KEYS, _REMEDY)
        ]
    return problems

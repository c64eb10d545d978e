"""The parts of a workspace that are mounted into a container.

By default the workspace is the checkout, which contains code that runs on the host: ``inv``,
``.venv``, ``.git/hooks``. A container therefore never gets the workspace itself. It gets
``models/``, ``data/`` and ``runs/`` (writable only if its job writes to them), its
configuration (read-only), and the files and folders named by its arguments.
"""

from __future__ import annotations

import glob
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs.files import exchange
from paddle_stacks.ownership import hand_over

__all__ = [
    "CONFIGS",
    "FOLDERS",
    "STAGE",
    "WORKSPACE",
    "Access",
    "Mount",
    "document",
    "find",
    "folders",
    "make_sources",
    "publish",
    "references",
    "to_make",
]

WORKSPACE = PurePosixPath("/workspace")
FOLDERS = ("models", "data", "runs")
"""The folders of the workspace that are mounted into every container."""
CONFIGS = "configs"
"""The folder of configurations, which is never writable."""
STAGE = ".output"
"""The staging folder for outputs that are moved to the workspace's root."""

# The checkout's own files and folders: writing to them could run code on the host. A test
# compares this list with the files that git tracks.
_CHECKOUT = frozenset(
    (
        *("bench", "configs", "docs", "entrypoints", "images", "paddle_stacks", "tests"),
        *("CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", "README.md", "README.zh-CN.md"),
        *("SECURITY.md", "docker-bake.hcl", "docker-compose.dcu.yml", "docker-compose.yml", "inv"),
        *("mkdocs.yml", "paddle-stacks.toml", "pyproject.toml", "requirements.lock", "tasks.py"),
    )
)
_CODE_NAMES = frozenset(
    (
        *(".git", ".github", ".venv", ".envrc", ".vscode", ".idea", "Makefile", "Dockerfile"),
        *("node_modules", "package.json", "pyproject.toml", "paddle-stacks.toml", "inv"),
    )
)
_CODE_SUFFIXES = (".py", ".pyc", ".pth", ".sh", ".so", ".js", ".pl", ".rb", ".mk", ".yml", ".yaml")
# The most files of a pattern that are mounted one by one.
_MAX_FILES = 100


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host that is mounted into the container.

    Args:
        source: path on the host.
        target: path in the container.
        read_only: whether it is mounted read-only.
    """

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Access:
    """The paths that a job's arguments name, relative to the workspace.

    Args:
        reads: files and folders to read (patterns and corpus prefixes too), each with the
            option that names it.
        mentions: texts that may contain such names, such as a configuration's values.
        writes: folders that are written in place.
        outputs: files, folders and prefixes that are written to a temporary name and renamed.
        keeps: whether the job reads an existing output before replacing it.
        scratch: whether the program writes to the workspace's root, as upstream's do.
    """

    reads: Mapping[str, str] = field(default_factory=dict)
    mentions: Sequence[str] = ()
    writes: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    keeps: bool = False
    scratch: bool = False


def folders(workspace: Path, writes: Iterable[str]) -> tuple[Mount, ...]:
    """Return the mounts of the folders that every container gets.

    Args:
        workspace: folder on the host.
        writes: the writable ones of :data:`FOLDERS`.
    """
    writable = frozenset(writes)
    return tuple(
        Mount(str(workspace / name), str(WORKSPACE / name), read_only=name not in writable)
        for name in FOLDERS
    )


def find(
    workspace: Path, access: Access, writes: Iterable[str]
) -> tuple[tuple[Mount, ...], tuple[str, ...]]:
    """Return the mounts of a workspace, and the outputs to move to its root at the job's end.

    Creates nothing: :func:`make_sources` does that before the job starts.

    Args:
        workspace: folder on the host.
        access: the paths in the job's arguments.
        writes: those of :data:`FOLDERS` that the job always writes to.

    Raises:
        RequestError: jobs cannot read or write some of the paths. Reports all of them.
    """
    problems: list[Problem] = []
    writable = {*writes}
    by_path: dict[str, Mount] = {}
    staged: list[str] = []

    def add(path: str, source: Path, *, read_only: bool) -> None:
        by_path[path] = Mount(str(source), str(WORKSPACE / path), read_only)

    for path, option in access.writes.items():
        if _top(path) in FOLDERS:
            writable.add(_top(path))
        elif problem := _write_problem(workspace, path, option):
            problems.append(problem)
        else:
            add(path, workspace / path, read_only=False)
    for path, option in access.outputs.items():
        parent = str(PurePosixPath(path).parent)
        if _top(path) in FOLDERS and parent != ".":
            writable.add(_top(path))
        elif problem := _name_problem(path, option):
            problems.append(problem)
        elif parent == ".":
            staged.append(path)
        elif problem := _write_problem(workspace, parent, option):
            problems.append(problem)
        else:
            add(parent, workspace / parent, read_only=False)
    if staged or access.scratch:
        add(".", workspace / STAGE / (staged[0] if staged else "scratch"), read_only=False)
    for path in (CONFIGS, *FOLDERS):
        source = workspace / path
        if source.is_symlink():
            # The engine would resolve the link inside of the container.
            if not source.is_dir():
                remedy = f"mkdir -p {os.path.realpath(source)}"
                problems.append(Problem("the link is broken", str(source), remedy))
            source = source.resolve()
        if path in FOLDERS or source.is_dir():
            add(path, source, read_only=path not in writable)
    for path, option in access.reads.items():
        for each in _existing(workspace, path):
            if problem := _read_problem(workspace, each, option):
                problems.append(problem)
            elif not _is_mounted(each, by_path):
                add(each, workspace / each, read_only=True)
    for path in dict.fromkeys(_named(workspace, access.mentions)):
        if not _read_problem(workspace, path, "") and not _is_mounted(path, by_path):
            add(path, workspace / path, read_only=True)
    for name in staged:
        for existing in [workspace / name, *workspace.glob(glob.escape(name) + ".*")]:
            if existing.is_symlink():
                remedy = f"rm {existing}, or use another --output"
                problems.append(Problem("the output is a link", str(existing), remedy))
            elif access.keeps and existing.exists():
                add(existing.name, existing, read_only=True)
    if problems:
        raise RequestError(problems)
    return tuple(sorted(by_path.values(), key=lambda mount: mount.target)), tuple(staged)


def references(value: object) -> Iterator[str]:
    """Yield all strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from references(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from references(each)


def document(path: Path) -> Mapping[str, object]:
    """Return a JSON file's object; empty if it cannot be read, which other code reports."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def to_make(mounts: Iterable[Mount], workspace: Path) -> tuple[str, ...]:
    """Return the folders of a workspace that must exist before a container starts.

    Otherwise the engine would fail, or create them as root.
    """
    always = {str(WORKSPACE / name) for name in FOLDERS}
    return tuple(
        mount.source
        for mount in mounts
        if workspace in Path(mount.source).parents
        and (mount.target in always or not mount.read_only)
    )


def make_sources(mounts: Iterable[Mount], workspace: Path, user: str) -> None:
    """Create the mounted folders of a workspace that do not exist.

    Args:
        mounts: a plan's mounts.
        workspace: folder on the host; nothing is created outside of it.
        user: ``uid:gid`` of their owner.
    """
    for source in map(Path, to_make(mounts, workspace)):
        missing = [
            path
            for path in (source, *source.parents)
            if workspace in path.parents and not path.exists()
        ]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            hand_over(path, user)


def publish(workspace: Path, outputs: Sequence[str]) -> None:
    """Move a job's outputs from the staging folder to the workspace's root.

    The job could write anything to the staging folder. Only regular files and folders with
    the expected names are moved, and links are not followed.

    Args:
        workspace: folder on the host.
        outputs: the plan's outputs.
    """
    if not outputs:
        return
    stage = workspace / STAGE / outputs[0]
    for name in outputs:
        for path in sorted(stage.glob("*")):
            if path.name != name and not path.name.startswith(name + "."):
                continue
            if path.name.endswith((".part", ".lock")) or _name_problem(path.name, ""):
                continue
            mode = path.lstat().st_mode
            target = workspace / path.name
            # An empty file was only a mount point for a file of the host.
            if stat.S_ISREG(mode) and path.stat().st_size and not target.is_dir():
                path.replace(target)
            elif (
                stat.S_ISDIR(mode)
                and any(path.iterdir())
                and not target.is_symlink()
                and (target.is_dir() or not target.exists())
            ):
                exchange(path, target)
    if not any(path.name.endswith(".part") for path in stage.glob("*")):
        _remove_mount_points(stage)


def _remove_mount_points(stage: Path) -> None:
    """Remove the empty files and folders that the engine created as mount points."""
    for path in stage.glob("*"):
        with suppress(OSError):
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                path.rmdir()
            elif stat.S_ISREG(mode) and not path.lstat().st_size:
                path.unlink()
    for folder in (stage, stage.parent):
        with suppress(OSError):
            folder.rmdir()


# ------------------------------------------------------------------ access checks


def _top(path: str) -> str:
    return PurePosixPath(path).parts[0] if PurePosixPath(path).parts else "."


def _is_mounted(path: str, mounts: Mapping[str, Mount]) -> bool:
    """Return whether a mount other than the staging folder already contains a path."""
    parts = PurePosixPath(path)
    return any(str(each) in mounts for each in (parts, *parts.parents) if str(each) != ".")


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)


def _existing(workspace: Path, text: str) -> list[str]:
    """Return the existing paths of a name, a pattern or a corpus prefix."""
    path = os.path.normpath(text)
    if path.startswith(("/", "..")) or _top(path) in FOLDERS:
        return []
    if (workspace / path).exists() or (workspace / path).is_symlink():
        return [path]
    if not glob.has_magic(path):
        pairs = [f"{path}{suffix}" for suffix in (".idx", ".bin")]
        return [pair for pair in pairs if (workspace / pair).is_file()]
    plain = [part for part in PurePosixPath(path).parts if not glob.has_magic(part)]
    if not glob.has_magic(_top(path)) and plain:
        at = next(i for i, p in enumerate(PurePosixPath(path).parts) if glob.has_magic(p))
        folder = str(PurePosixPath(*PurePosixPath(path).parts[:at]))
        return [folder] if (workspace / folder).is_dir() else []
    matched = sorted(str(p.relative_to(workspace)) for p in workspace.glob(path) if p.is_file())
    return [p for p in matched if _top(p) not in FOLDERS and not _is_hidden(p)][: _MAX_FILES + 1]


def _named(workspace: Path, texts: Iterable[str]) -> Iterator[str]:
    """Yield the existing paths in texts, such as a list of weights and prefixes."""
    for text in texts:
        for word in (text, *re.split(r"[\s,=]+", text)):
            if 0 < len(word) < 500 and "\0" not in word and not glob.has_magic(word):
                yield from _existing(workspace, word)


def _read_problem(workspace: Path, path: str, option: str) -> Problem | None:
    where = f"{option} {path}".strip()
    remedy = "move or copy it to data/, models/ or runs/, and use that path"
    if path == "." or PurePosixPath(path) == WORKSPACE:
        return Problem("jobs cannot read the workspace itself", where, remedy)
    if _is_hidden(path):
        return Problem("jobs cannot read hidden files and folders", where, remedy)
    resolved = (workspace / path).resolve()
    inside = os.path.relpath(resolved, workspace.resolve())
    if inside.startswith("..") or _is_hidden(inside):
        return Problem("the target of the link is outside of what jobs can read", where, remedy)
    return None


def _name_problem(path: str, option: str) -> Problem | None:
    """Return a problem if an output's name could make it run as code on the host."""
    name = PurePosixPath(path).name
    if name in _CHECKOUT | _CODE_NAMES or name.startswith(".") or name.endswith(_CODE_SUFFIXES):
        message = f"jobs cannot write {name}: it could run as code on the host"
        return Problem(message, f"{option} {path}", f"use another name: {option} runs/NAME")
    return None


def _write_problem(workspace: Path, path: str, option: str) -> Problem | None:
    """Return a problem if jobs cannot write to a folder of the workspace."""
    remedy = f"{option} runs/NAME or models/NAME; or a folder that contains only outputs"
    where = f"{option} {path}"
    if path == ".":
        return Problem("jobs cannot write to the workspace's root", where, remedy)
    if _is_hidden(path) or _top(path) in _CHECKOUT:
        return Problem("jobs cannot write to a folder with code", where, remedy)
    folder = workspace / path
    inside = os.path.relpath(folder.resolve(), workspace.resolve())
    if inside != os.path.normpath(path):
        return Problem("jobs cannot write through a link", where, remedy)
    for each in (folder, *folder.parents):
        if each == workspace:
            break
        if each.is_dir() and (code := _code_in(each)):
            message = f"jobs cannot write to a folder with code: it contains {code}"
            return Problem(message, where, remedy)
    return None


def _code_in(folder: Path) -> str:
    """Return the name of a file in a folder that could run as code; empty if there is none."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in _CODE_NAMES or entry.name.endswith(_CODE_SUFFIXES):
                return entry.name
            if entry.is_file(follow_symlinks=False) and entry.stat().st_mode & 0o111:
                return entry.name
    return ""

"""The parts of a workspace that a container sees.

The workspace is the checkout by default, and what is in it runs on the host: ``inv``, ``.venv``,
``.git/hooks``. So a container never gets the workspace itself. It gets ``models/``, ``data/`` and
``runs/``, of these only what its job writes to writable, its configuration read-only, and each
file and folder that its arguments name.
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
"""The folders of the workspace that every container sees."""
CONFIGS = "configs"
"""The folder of configurations, which is never writable."""
STAGE = ".output"
"""The folder in which outputs are written that go to the workspace's root, by their name."""

# The checkout's own files and folders: whoever writes to one of them decides what runs on the
# host. A test compares this with what git tracks.
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
# So many files of a pattern are mounted one by one.
_MAX_FILES = 100


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host, seen in the container.

    Args:
        source: the path on the host.
        target: the path in the container.
        read_only: whether the container may not write to it.
    """

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Access:
    """The paths of a workspace that a job's arguments name, relative to it.

    Args:
        reads: files and folders that are read, each with the option that names it; patterns
            and the prefixes of a corpus too.
        mentions: text in which there may be such names, as a configuration's values.
        writes: folders that are written in place.
        outputs: files, folders and prefixes that are written beside and then renamed.
        keeps: whether the job looks at an output that is there already before it replaces it.
        scratch: whether the program may write to the workspace's root, as upstream's do.
    """

    reads: Mapping[str, str] = field(default_factory=dict)
    mentions: Sequence[str] = ()
    writes: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    keeps: bool = False
    scratch: bool = False


def folders(workspace: Path, writes: Iterable[str]) -> tuple[Mount, ...]:
    """Return the mounts of the folders that every container sees.

    Args:
        workspace: on the host.
        writes: which of :data:`FOLDERS` are writable.
    """
    writable = frozenset(writes)
    return tuple(
        Mount(str(workspace / name), str(WORKSPACE / name), read_only=name not in writable)
        for name in FOLDERS
    )


def find(
    workspace: Path, access: Access, writes: Iterable[str]
) -> tuple[tuple[Mount, ...], tuple[str, ...]]:
    """Return all mounts of a workspace, and the outputs that go to its root when the job ends.

    Nothing is made: :func:`make_sources` does that before the job starts.

    Args:
        workspace: on the host.
        access: what the job's arguments name.
        writes: which of :data:`FOLDERS` the job always writes to.

    Raises:
        RequestError: a job may not see or write one of the paths; all of them are named.
    """
    problems: list[Problem] = []
    writable = {*writes}
    found: dict[str, Mount] = {}
    staged: list[str] = []

    def add(path: str, source: Path, *, read_only: bool) -> None:
        found[path] = Mount(str(source), str(WORKSPACE / path), read_only)

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
            # The engine would mount the link's target by the same name inside the container.
            if not source.is_dir():
                what, remedy = "the link leads nowhere", f"mkdir -p {os.path.realpath(source)}"
                problems.append(Problem(what, str(source), remedy))
            source = source.resolve()
        if path in FOLDERS or source.is_dir():
            add(path, source, read_only=path not in writable)
    for path, option in access.reads.items():
        for each in _existing(workspace, path):
            if problem := _read_problem(workspace, each, option):
                problems.append(problem)
            elif not _is_seen(each, found):
                add(each, workspace / each, read_only=True)
    for path in dict.fromkeys(_named(workspace, access.mentions)):
        if not _read_problem(workspace, path, "") and not _is_seen(path, found):
            add(path, workspace / path, read_only=True)
    for name in staged:
        for there in [workspace / name, *workspace.glob(glob.escape(name) + ".*")]:
            if there.is_symlink():
                what, remedy = "the output is a link", "remove it, or name another output"
                problems.append(Problem(what, str(there), remedy))
            elif access.keeps and there.exists():
                add(there.name, there, read_only=True)
    if problems:
        raise RequestError(problems)
    return tuple(sorted(found.values(), key=lambda mount: mount.target)), tuple(staged)


def references(value: object) -> Iterator[str]:
    """Yield every text in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from references(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from references(each)


def document(path: Path) -> Mapping[str, object]:
    """Return a JSON file's object; an empty one where it cannot be read, which others report."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def to_make(mounts: Iterable[Mount], workspace: Path) -> tuple[str, ...]:
    """Return the folders of a workspace that have to be there before a container starts.

    The engine would refuse the container, or make them as root.
    """
    always = {str(WORKSPACE / name) for name in FOLDERS}
    return tuple(
        mount.source
        for mount in mounts
        if workspace in Path(mount.source).parents
        and (mount.target in always or not mount.read_only)
    )


def make_sources(mounts: Iterable[Mount], workspace: Path, user: str) -> None:
    """Make the folders of a workspace that are mounted and are not there yet.

    Args:
        mounts: a plan's.
        workspace: on the host; nothing is made elsewhere.
        user: ``uid:gid`` that they belong to.
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
    """Move what a job has written for the workspace's root to there.

    The job owned the folder in which it is: only a regular file or a folder is moved, by its
    name, and no link is followed.

    Args:
        workspace: on the host.
        outputs: the names that the plan says.
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
            # An empty file is where one of the host's was mounted.
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
        _remove_places(stage)


def _remove_places(stage: Path) -> None:
    """Remove the empty files and folders over which the engine mounted others."""
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


# ------------------------------------------------------------------ what may be seen


def _top(path: str) -> str:
    return PurePosixPath(path).parts[0] if PurePosixPath(path).parts else "."


def _is_seen(path: str, found: Mapping[str, Mount]) -> bool:
    """Return whether a mount other than the stage shows a path already."""
    parts = PurePosixPath(path)
    return any(str(each) in found for each in (parts, *parts.parents) if str(each) != ".")


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)


def _existing(workspace: Path, text: str) -> list[str]:
    """Return the paths that a name, a pattern or a corpus's prefix stands for."""
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
    """Yield the paths that are named in texts, as in a list of weights and prefixes."""
    for text in texts:
        for word in (text, *re.split(r"[\s,=]+", text)):
            if 0 < len(word) < 500 and "\0" not in word and not glob.has_magic(word):
                yield from _existing(workspace, word)


def _read_problem(workspace: Path, path: str, option: str) -> Problem | None:
    where = f"{option} {path}".strip()
    remedy = "move or copy it into data/, models/ or runs/, and name it there"
    if path == "." or PurePosixPath(path) == WORKSPACE:
        return Problem("the workspace itself is not shown to a job", where, remedy)
    if _is_hidden(path):
        return Problem("a hidden file or folder is not shown to a job", where, remedy)
    resolved = (workspace / path).resolve()
    inside = os.path.relpath(resolved, workspace.resolve())
    if inside.startswith("..") or _is_hidden(inside):
        return Problem("the link leads to a place that is not shown to a job", where, remedy)
    return None


def _name_problem(path: str, option: str) -> Problem | None:
    """Return why an output may not have its name: it would run on the host."""
    name = PurePosixPath(path).name
    if name in _CHECKOUT | _CODE_NAMES or name.startswith(".") or name.endswith(_CODE_SUFFIXES):
        what = f"{name} can be code that runs on the host, which a job may not write"
        return Problem(what, f"{option} {path}", f"{option} runs/NAME, with another name")
    return None


def _write_problem(workspace: Path, path: str, option: str) -> Problem | None:
    """Return why a job may not write to a folder of the workspace."""
    remedy = f"{option} runs/NAME or models/NAME; or a folder that holds nothing but outputs"
    where = f"{option} {path}"
    if path == ".":
        return Problem("a job may not write to the workspace's root", where, remedy)
    if _is_hidden(path) or _top(path) in _CHECKOUT:
        return Problem("a job may not write to a folder with code", where, remedy)
    folder = workspace / path
    inside = os.path.relpath(folder.resolve(), workspace.resolve())
    if inside != os.path.normpath(path):
        return Problem("a job may not write through a link", where, remedy)
    for each in (folder, *folder.parents):
        if each == workspace:
            break
        if each.is_dir() and (code := _code_in(each)):
            what = f"a job may not write to a folder with code: there is {code}"
            return Problem(what, where, remedy)
    return None


def _code_in(folder: Path) -> str:
    """Return the name of a file in a folder that somebody would run; empty where none is."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in _CODE_NAMES or entry.name.endswith(_CODE_SUFFIXES):
                return entry.name
            if entry.is_file(follow_symlinks=False) and entry.stat().st_mode & 0o111:
                return entry.name
    return ""

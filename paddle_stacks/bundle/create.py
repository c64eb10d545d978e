"""Make a bundle on a machine with a network.

It grows in a folder beside its place and takes its name when it is whole. What an
interrupted run or the bundle of last time has is kept: blobs and wheels are named by what
they are, models are copied when they changed.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from paddle_stacks import __version__
from paddle_stacks.bundle import downloads, pieces, readme, saving, signature
from paddle_stacks.bundle.contents import (
    MANIFEST,
    OUTSIDE,
    PROGRAM,
    README,
    SUMS,
    File,
    Image,
    Manifest,
    check_name,
    telling_of_room,
    write_sums,
)
from paddle_stacks.bundle.load import PROJECT
from paddle_stacks.errors import MachineError, Problem, RequestError
from paddle_stacks.jobs.files import CHUNK, digest_of, exchange, replacing_file, sync_tree
from paddle_stacks.jobs.workspace import find_model
from paddle_stacks.revision import ARCHIVAL, commit_seconds, git, revision
from paddle_stacks.settings import Settings

__all__ = ["Order", "create", "parse_size"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

# What bundle.pyz is made of: it has to run before there is an environment.
_SOURCES = (
    *("__init__.py", "errors.py", "revision.py", "jobs/__init__.py", "jobs/files.py"),
    *(f"bundle/{name}.py" for name in ("__init__", "check", "contents", "images", "load")),
    *(f"bundle/{name}.py" for name in ("program", "signature")),
)
_MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.exit("error: this Python is too old\\n  fix: start it with Python 3.10 or newer")
from paddle_stacks.bundle.program import main

sys.exit(main())
"""
_PURPOSES = {
    "images": "the images, an OCI layout: docker load",
    "project": "the project itself",
    "environment": "the project's Python environment",
    "packages": "what the images are built from: packages of Debian and Python",
    "sources": "what a DCU's operators are built from",
    "models": "a model",
    "data": "data",
}


@dataclass(frozen=True)
class Order:
    """What a bundle is to hold.

    Args:
        output: its folder.
        images: targets of ``docker-bake.hcl``; none for all of the backend's.
        models: names of models in the workspace.
        data: names of folders in the workspace's ``data/``.
        pythons: for which versions of Python the project's environment is carried.
        split: the most bytes that a file may have; 0 for no limit.
        rebuild: whether the images can be built again from it.
        allow_dirty: whether files may differ from the commit.
        key: an SSH key to sign with; None for no signature.
    """

    output: Path
    images: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    pythons: tuple[str, ...] = downloads.PYTHONS
    split: int = 0
    rebuild: bool = True
    allow_dirty: bool = False
    key: Path | None = None


def create(order: Order, settings: Settings, say: Callable[[str], None]) -> Manifest:
    """Make a bundle and return its manifest.

    Args:
        order: what it is to hold.
        settings: the backend, the workspace, and the way to mirrors and indexes.
        say: told of each step.

    Raises:
        RequestError: files differ from the commit, or a model, a folder or an image is
            none; all of them at once.
        MachineError: an image is not built, there is no room, or no engine.
        BuildError: mirrors or indexes cannot be reached.
    """
    from paddle_stacks import engine

    client = engine.connect()
    wanted_folders = _check(order, settings)
    wanted = saving.find(order.images, order.rebuild, settings, client)
    part = _begin(order)
    with telling_of_room(part):
        _require_room(part, wanted, wanted_folders.values())
        carried, held = saving.save(part, wanted, order.split, say)
        held |= _pack_project(part, settings.root)
        for name, folder in wanted_folders.items():
            say(name)
            held |= _copy_folder(part, folder, name, order.split)
        say(f"environment: for Python {', '.join(order.pythons)}")
        held |= downloads.environment(part, order.pythons, settings)
        if order.rebuild:
            say("what the images are built from")
            held |= downloads.packages(part, settings)
        pieces.keep_only(part, held)
        pieces.split(part, order.split, say)
        say("sums of all files")
        manifest = _finish(part, order, settings, carried)
        if order.key:
            signature.sign(part, order.key)
        sync_tree(part)
        exchange(part, order.output)
    size = sum(file.size for file in manifest.files)
    say(f"{order.output}: {len(manifest.files)} files, {size / 1e9:.2f} GB")
    return manifest


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``4G``: 4e9, which FAT32 can still hold.

    Raises:
        RequestError: it is no size, or less than a megabyte.
    """
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", text.strip(), re.IGNORECASE)
    size = int(found[1]) * _UNITS[found[2].upper()] if found else 0
    if size < 10**6:
        raise RequestError(
            f'"{text}" is no size of 1M or more',
            where="--split",
            remedy="a number with M, G or T, as 4G",
        )
    return size


def _check(order: Order, settings: Settings) -> dict[str, Path]:
    """Return the folders of models and data by their names in the bundle, or all that is wrong."""
    problems: list[Problem] = []
    found: dict[str, Path] = {}
    for kind, names, find in (
        ("models", order.models, find_model),
        ("data", order.data, _find_data),
    ):
        for name in names:
            try:
                folder = find(name, settings.workspace).resolve()
            except RequestError as error:
                problems += error.problems
                continue
            # As it was called: a run's model is in a folder "model", whatever the run.
            inside = f"{kind}/{Path(name).name or folder.name}"
            if found.setdefault(inside, folder) != folder:
                what = f"{inside} would be this folder and {found[inside]}"
                problems.append(Problem(what, str(folder), "rename one of the two"))
    for version in order.pythons:
        if version not in downloads.PYTHONS:
            what = f"requirements.lock has no wheels for Python {version}"
            problems.append(Problem(what, "--python", f"one of {', '.join(downloads.PYTHONS)}"))
    if order.key and not order.key.is_file():
        remedy = "name the file of a private SSH key, as ~/.ssh/id_ed25519"
        problems.append(Problem("there is no such key", str(order.key), remedy))
    if order.rebuild and settings.backend == "dcu-sim":
        what = "what dcu-sim is built from is not carried: it stands in for a DCU in tests"
        problems.append(Problem(what, "--backend", "--no-rebuild carries its images alone"))
    if revision(settings.root).endswith("-dirty") and not order.allow_dirty:
        what = "files differ from the commit, and the bundle would hold what nobody can look up"
        remedy = "commit them, or carry them as they are: --allow-dirty"
        problems.append(Problem(what, str(settings.root), remedy))
    if order.output.exists() and not (order.output / SUMS).is_file():
        what = "this is there and is no bundle"
        problems.append(Problem(what, str(order.output), "name a new folder with --output"))
    if problems:
        raise RequestError(problems)
    return found


def _find_data(name: str, workspace: Path) -> Path:
    for folder in (workspace / "data" / name, workspace / name):
        if folder.is_dir():
            return folder
    remedy = "name a folder in data/, or a path in the workspace"
    raise RequestError(f'no data "{name}"', where=str(workspace / "data"), remedy=remedy)


def _pack_project(part: Path, root: Path) -> set[str]:
    """Pack the project's files: those of the commit, or as they are now if they differ."""
    seconds, node = commit_seconds(root), revision(root)
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if not listed:
        raise MachineError(
            "a bundle is made of a git checkout, and git tells of none here",
            where=str(root),
            remedy="install git, and start in a clone",
        )
    names = sorted({name for name in listed.split("\0") if name and (root / name).is_file()})
    with (
        replacing_file(part / PROJECT, "wb") as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in names:
            content = (root / name).read_bytes()
            if name == ARCHIVAL:
                content = f"node: {node}\nnode-date: {seconds}\n".encode()
            member = tarfile.TarInfo(check_name(name))
            member.size, member.mtime = len(content), seconds
            member.mode = 0o755 if (root / name).stat().st_mode & 0o100 else 0o644
            archive.addfile(member, io.BytesIO(content))
    return {PROJECT}


def _copy_folder(part: Path, source: Path, name: str, split: int) -> set[str]:
    """Copy a folder into the bundle, the files that changed since the last time."""
    held = set()
    for path in sorted(source.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        inside = check_name(f"{name}/{path.relative_to(source).as_posix()}")
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise RequestError(
                "neither a file nor a folder", where=str(path), remedy="move it elsewhere"
            )
        before = pieces.held(part, inside, split)
        same = before and sum(piece.stat().st_size for piece in before) == found.st_size
        if not same or before[0].stat().st_mtime_ns != found.st_mtime_ns:
            pieces.forget(part, inside)
            with path.open("rb") as stream, replacing_file(part / inside, "wb") as written:
                shutil.copyfileobj(stream, written, CHUNK)
            os.utime(part / inside, ns=(found.st_mtime_ns, found.st_mtime_ns))
        held.add(inside)
    return held


def _begin(order: Order) -> Path:
    """Return the folder that grows, with what an earlier run has left or made."""
    part = order.output.with_name(f".{order.output.name}.part")
    shutil.rmtree(part.with_suffix(".old"), ignore_errors=True)
    if not part.exists() and order.output.is_dir():
        seed = part.with_suffix(".seed")
        shutil.rmtree(seed, ignore_errors=True)
        try:
            # No file here is written to under its name, only replaced: links will do.
            shutil.copytree(order.output, seed, copy_function=os.link)
            seed.rename(part)
        except (OSError, shutil.Error):  # a file system without links: from the start then
            shutil.rmtree(seed, ignore_errors=True)
    part.mkdir(parents=True, exist_ok=True)
    return part


def _require_room(part: Path, wanted: Sequence[saving.Wanted], folders: Iterable[Path]) -> None:
    """Raise a MachineError where what is known of the bundle's size does not fit."""
    size = sum(saving.own_size(image, wanted) for image in wanted)
    size += sum(path.stat().st_size for f in folders for path in f.rglob("*") if path.is_file())
    there = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    free = shutil.disk_usage(part).free
    if size - there > free:
        raise MachineError(
            f"no room: {size / 1e9:.1f} GB of images and models, {free / 1e9:.1f} GB free",
            where=str(part.parent),
            remedy="name a folder on a larger disk with --output",
        )


def _finish(part: Path, order: Order, settings: Settings, carried: tuple[Image, ...]) -> Manifest:
    """Write manifest, program, README and sums; return the manifest."""
    files = tuple(pieces.files(part, _PURPOSES))
    now = datetime.now(timezone.utc)
    manifest = Manifest(
        created=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=__version__,
        revision=revision(settings.root),
        backend=settings.backend,
        models=_names(files, "models"),
        data=_names(files, "data"),
        pythons=order.pythons,
        rebuild=order.rebuild,
        images=carried,
        files=files,
    )
    (part / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    (part / README).write_text(readme.text(manifest), encoding="utf-8")
    _write_program(part / PROGRAM)
    sums = {piece.path: piece.sha256 for file in files for piece in file.pieces}
    for name in OUTSIDE:
        with (part / name).open("rb") as stream:
            sums[name] = digest_of(stream)[1]
    (part / SUMS).write_text(write_sums(sums), encoding="utf-8")
    return manifest


def _names(files: Iterable[File], kind: str) -> tuple[str, ...]:
    """Return the names of the models or of the data that files are of."""
    parts = [file.path.split("/") for file in files]
    return tuple(sorted({path[1] for path in parts if path[0] == kind}))


def _write_program(path: Path) -> None:
    """Write the program that checks and loads: the same bytes from the same sources."""
    package = Path(__file__).parents[1]
    texts = {f"{package.name}/{name}": (package / name).read_bytes() for name in _SOURCES}
    with path.open("wb") as stream:
        stream.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in {"__main__.py": _MAIN.encode(), **texts}.items():
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    path.chmod(0o755)

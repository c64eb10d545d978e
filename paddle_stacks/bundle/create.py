"""Creation of a bundle on a machine with a network.

A bundle is built in a folder next to its final path and renamed when it is complete. Files of an
interrupted run or of the previous bundle are reused: blobs and wheels are named by their content,
and models are copied only if they changed.
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
from paddle_stacks.bundle import downloads, readme, saving, signature, storage
from paddle_stacks.bundle.contents import (
    MANIFEST,
    PROGRAM,
    README,
    SUMS,
    UNLISTED,
    File,
    Image,
    Manifest,
    check_name,
    disk_full_as_error,
    write_sums,
)
from paddle_stacks.bundle.load import PROJECT
from paddle_stacks.errors import MachineError, Problem, RequestError
from paddle_stacks.jobs.files import CHUNK, exchange, replacing_file, sha256_of, sync_tree
from paddle_stacks.jobs.workspace import find_model
from paddle_stacks.revision import ARCHIVAL, commit_seconds, git, revision
from paddle_stacks.settings import Settings

__all__ = ["BundleSpec", "create", "parse_size"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

# The sources of bundle.pyz, which runs before the project's environment exists.
_SOURCES = (
    *("__init__.py", "errors.py", "revision.py", "jobs/__init__.py", "jobs/files.py"),
    *(f"bundle/{name}.py" for name in ("__init__", "check", "contents", "images", "load")),
    *(f"bundle/{name}.py" for name in ("program", "signature")),
)
_MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.exit("error: this Python is too old\\n  fix: run it with Python 3.10 or newer")
from paddle_stacks.bundle.program import main

sys.exit(main())
"""
_PURPOSES = {
    "images": "the images, an OCI layout: docker load",
    "project": "the project itself",
    "environment": "the project's Python environment",
    "packages": "Debian and Python packages for building the images",
    "sources": "sources for building a DCU's operators",
    "models": "a model",
    "data": "data",
}


@dataclass(frozen=True)
class BundleSpec:
    """The requested contents of a bundle.

    Args:
        output: the bundle's folder.
        images: targets of ``docker-bake.hcl``; () for all images of the backend.
        models: names of models in the workspace.
        data: names of folders in the workspace's ``data/``.
        pythons: versions of Python to include the project's environment for.
        split: the maximum size of a file in bytes; 0 for no limit.
        rebuild: include the inputs for building the images.
        allow_dirty: allow files that differ from the commit.
        key: an SSH key for signing; None for no signature.
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


def create(spec: BundleSpec, settings: Settings, log: Callable[[str], None]) -> Manifest:
    """Create a bundle and return its manifest.

    Args:
        spec: the requested contents.
        settings: the backend, the workspace, mirrors and indexes.
        log: called with a line for each step.

    Raises:
        RequestError: files differ from the commit, or a model, folder or image does not exist;
            lists all problems.
        MachineError: an image is not built, the disk is too small, or no engine answers.
        BuildError: mirrors or indexes cannot be reached.
    """
    from paddle_stacks import engine

    client = engine.connect()
    folders = _check(spec, settings)
    images = saving.find(spec.images, spec.rebuild, settings, client)
    part = _start_part(spec)
    with disk_full_as_error(part):
        _require_space(part, images, folders.values())
        saved, paths = saving.save(part, images, spec.split, log)
        paths |= _pack_project(part, settings.root)
        for name, folder in folders.items():
            log(name)
            paths |= _copy_folder(part, folder, name, spec.split)
        log(f"environment: for Python {', '.join(spec.pythons)}")
        paths |= downloads.environment(part, spec.pythons, settings)
        if spec.rebuild:
            log("packages and sources for building the images")
            paths |= downloads.packages(part, settings)
        storage.remove_others(part, paths)
        storage.split(part, spec.split, log)
        log("checksums of all files")
        manifest = _finish(part, spec, settings, saved)
        if spec.key:
            signature.sign(part, spec.key)
        sync_tree(part)
        exchange(part, spec.output)
    size = sum(file.size for file in manifest.files)
    log(f"{spec.output}: {len(manifest.files)} files, {size / 1e9:.2f} GB")
    return manifest


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``4G``, which is 4e9 and fits on FAT32.

    Raises:
        RequestError: not a size, or less than a megabyte.
    """
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.strip(), re.IGNORECASE)
    size = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if size < 10**6:
        raise RequestError(
            f'"{text}" is not a size of at least 1M',
            where="--split",
            remedy="use a number with M, G or T, such as 4G",
        )
    return size


def _check(spec: BundleSpec, settings: Settings) -> dict[str, Path]:
    """Return the folders of models and data by their paths in the bundle.

    Raises:
        RequestError: lists all problems of the request.
    """
    problems: list[Problem] = []
    folders: dict[str, Path] = {}
    for kind, names, find in (
        ("models", spec.models, find_model),
        ("data", spec.data, _find_data),
    ):
        for name in names:
            try:
                folder = find(name, settings.workspace).resolve()
            except RequestError as error:
                problems += error.problems
                continue
            # By the requested name: a run's model is in a folder "model", whatever the run.
            path = f"{kind}/{Path(name).name or folder.name}"
            if folders.setdefault(path, folder) != folder:
                fault = f"{path} would be both this folder and {folders[path]}"
                problems.append(Problem(fault, str(folder), "rename one of the two"))
    for version in spec.pythons:
        if version not in downloads.PYTHONS:
            fault = f"requirements.lock has no wheels for Python {version}"
            problems.append(Problem(fault, "--python", f"use {', '.join(downloads.PYTHONS)}"))
    if spec.key and not spec.key.is_file():
        problems.append(Problem("the key does not exist", str(spec.key), signature.NAME_A_KEY))
    if spec.rebuild and settings.backend == "dcu-sim":
        fault = "the inputs of dcu-sim cannot be bundled: it replaces a DCU in tests only"
        problems.append(Problem(fault, "--backend", "bundle its images only: --no-rebuild"))
    if revision(settings.root).endswith("-dirty") and not spec.allow_dirty:
        fault = "files differ from the commit, so the bundle could not be traced to a revision"
        remedy = "commit them, or include them as they are: --allow-dirty"
        problems.append(Problem(fault, str(settings.root), remedy))
    if spec.output.exists() and not (spec.output / SUMS).is_file():
        fault = "the folder exists and is not a bundle"
        problems.append(Problem(fault, str(spec.output), "name a new folder with --output"))
    if problems:
        raise RequestError(problems)
    return folders


def _find_data(name: str, workspace: Path) -> Path:
    for folder in (workspace / "data" / name, workspace / name):
        if folder.is_dir():
            return folder
    remedy = "name a folder in data/, or a path in the workspace"
    raise RequestError(f'no data named "{name}"', where=str(workspace / "data"), remedy=remedy)


def _pack_project(part: Path, root: Path) -> set[str]:
    """Pack the files of the checkout as they are, including uncommitted changes."""
    seconds, node = commit_seconds(root), revision(root)
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if not listed:
        raise MachineError(
            "a bundle is created from a git checkout, and git lists no files here",
            where=str(root),
            remedy="install git, and run the command in a clone",
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
    """Copy a folder's files into the bundle, except those that have not changed."""
    paths = set()
    for path in sorted(source.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        target = check_name(f"{name}/{path.relative_to(source).as_posix()}")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RequestError(
                "neither a file nor a folder", where=str(path), remedy="move it elsewhere"
            )
        copies = storage.paths_of(part, target, split)
        same_size = sum(copy.stat().st_size for copy in copies) == status.st_size
        if not copies or not same_size or copies[0].stat().st_mtime_ns != status.st_mtime_ns:
            storage.remove(part, target)
            with path.open("rb") as stream, replacing_file(part / target, "wb") as copy:
                shutil.copyfileobj(stream, copy, CHUNK)
            os.utime(part / target, ns=(status.st_mtime_ns, status.st_mtime_ns))
        paths.add(target)
    return paths


def _start_part(spec: BundleSpec) -> Path:
    """Return the unfinished bundle's folder, with the files of an earlier run or bundle."""
    part = spec.output.with_name(f".{spec.output.name}.part")
    shutil.rmtree(part.with_suffix(".old"), ignore_errors=True)
    if not part.exists() and spec.output.is_dir():
        seed = part.with_suffix(".seed")
        shutil.rmtree(seed, ignore_errors=True)
        try:
            # Hard links suffice, because files are replaced and never modified.
            shutil.copytree(spec.output, seed, copy_function=os.link)
            seed.rename(part)
        except (OSError, shutil.Error):  # without hard links, start with an empty folder
            shutil.rmtree(seed, ignore_errors=True)
    part.mkdir(parents=True, exist_ok=True)
    return part


def _require_space(
    part: Path, images: Sequence[saving.ImageToSave], folders: Iterable[Path]
) -> None:
    """Raise a MachineError if the images, models and data do not fit on the disk."""
    size = sum(saving.own_size(image, images) for image in images)
    size += sum(_size_of(folder) for folder in folders)
    free = shutil.disk_usage(part).free
    if size - _size_of(part) > free:
        raise MachineError(
            f"not enough space: {size / 1e9:.1f} GB of images and models, {free / 1e9:.1f} GB free",
            where=str(part.parent),
            remedy="name a folder on a larger disk with --output",
        )


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _finish(
    part: Path, spec: BundleSpec, settings: Settings, images: tuple[Image, ...]
) -> Manifest:
    """Write manifest, program, README and checksums; return the manifest."""
    files = tuple(storage.files(part, _PURPOSES))
    now = datetime.now(timezone.utc)
    manifest = Manifest(
        created=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=__version__,
        revision=revision(settings.root),
        backend=settings.backend,
        models=_names(files, "models"),
        data=_names(files, "data"),
        pythons=spec.pythons,
        rebuild=spec.rebuild,
        images=images,
        files=files,
    )
    (part / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    (part / README).write_text(readme.text(manifest), encoding="utf-8")
    _write_program(part / PROGRAM)
    sums = {stored.path: stored.sha256 for file in files for stored in file.stored}
    sums |= {name: sha256_of(part / name) for name in UNLISTED}
    (part / SUMS).write_text(write_sums(sums), encoding="utf-8")
    return manifest


def _names(files: Iterable[File], kind: str) -> tuple[str, ...]:
    """Return the names of the folders in ``models`` or ``data`` that have files."""
    parts = [file.path.split("/") for file in files]
    return tuple(sorted({path[1] for path in parts if path[0] == kind}))


def _write_program(path: Path) -> None:
    """Write bundle.pyz; the same sources give the same bytes."""
    package = Path(__file__).parents[1]
    texts = {f"{package.name}/{name}": (package / name).read_bytes() for name in _SOURCES}
    with path.open("wb") as stream:
        stream.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in {"__main__.py": _MAIN.encode(), **texts}.items():
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    path.chmod(0o755)

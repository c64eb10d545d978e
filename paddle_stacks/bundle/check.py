"""Verification of a bundle: every file is compared with its checksum."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from paddle_stacks.bundle.contents import (
    COPY_AGAIN,
    MANIFEST,
    SIGNATURE,
    SUMS,
    UNLISTED,
    Manifest,
    StoredFile,
    not_a_bundle,
    read_sums,
)
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs.files import digest_of

__all__ = ["Stamp", "read", "stamp", "verify"]

Stamp = tuple[int, int, int]
"""Size, time of change (ns) and inode: they show whether a file changed since it was read."""

_SECONDS = 5.0  # between two lines of progress


def read(folder: Path) -> tuple[Manifest, list[StoredFile]]:
    """Return a bundle's manifest and the files that its folder must have.

    Raises:
        RequestError: not a bundle, its manifest is damaged, or the manifest and ``SHA256SUMS``
            list different files.
    """
    if not folder.is_dir():
        raise not_a_bundle(folder, "the folder does not exist")
    sums = read_sums(folder / SUMS)
    path = folder / MANIFEST
    unlisted = [_unlisted(folder, name, sums) for name in UNLISTED]
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sums[MANIFEST]:
        raise RequestError(f"{MANIFEST} is damaged", where=str(path), remedy=COPY_AGAIN)
    manifest = Manifest.from_json(content.decode("utf-8", errors="replace"), str(path))
    stored = [*unlisted, *(each for file in manifest.files for each in file.stored)]
    listed = {file.path: file.sha256 for file in stored}
    if len(listed) != len(stored):
        raise RequestError("a file is listed twice", where=str(path), remedy=COPY_AGAIN)
    if listed != sums:
        paths = sorted(p for p in {*listed, *sums} if listed.get(p) != sums.get(p))
        raise RequestError(
            f"{SUMS} and {MANIFEST} differ in {', '.join(paths[:3])}",
            where=str(folder),
            remedy=COPY_AGAIN,
        )
    return manifest, stored


def verify(
    folder: Path,
    log: Callable[[str], None],
    verified: Mapping[str, Stamp] | None = None,
    on_verified: Callable[[str, Stamp], None] | None = None,
) -> Manifest:
    """Compare every file of a bundle with its checksum and return the manifest.

    Args:
        folder: the bundle.
        log: called with lines of progress.
        verified: files that were verified before; they are not read again if unchanged.
        on_verified: called with each file as soon as it is verified.

    Raises:
        RequestError: files are missing, damaged, truncated, too long, not regular files, or
            not part of the bundle; lists all of them.
    """
    manifest, stored = read(folder)
    problems = [
        Problem(f"{name} is not part of the bundle", str(folder), "move it elsewhere")
        for name in _unexpected(folder, {file.path for file in stored})
    ]
    size = sum(file.size for file in stored)
    log(f"verifying {len(stored)} files, {_size(size)}")
    progress = _Progress(size, log)
    for file in stored:
        problem = _metadata_fault(folder, file)
        if not problem:
            current = stamp(folder / file.path)
            if verified and verified.get(file.path) == current:
                progress(file.size)
                continue
            problem = _content_fault(folder, file, progress)
            if not problem and on_verified:
                on_verified(file.path, current)
        if problem:
            problems.append(Problem(problem, str(folder / file.path), COPY_AGAIN))
    if problems:
        raise RequestError(problems)
    return manifest


def stamp(path: Path) -> Stamp:
    """Return a file's stamp, which changes when the file does."""
    status = path.lstat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _unlisted(folder: Path, name: str, sums: Mapping[str, str]) -> StoredFile:
    """Return a file that the manifest cannot list, because it is written after the manifest."""
    path = folder / name
    if not path.is_file() or path.is_symlink():
        raise RequestError(f"not a bundle: {name} is missing", where=str(folder), remedy=COPY_AGAIN)
    if name not in sums:
        raise RequestError(f"{SUMS} does not list {name}", where=str(folder), remedy=COPY_AGAIN)
    return StoredFile(name, path.stat().st_size, sums[name])


def _unexpected(folder: Path, expected: set[str]) -> list[str]:
    """Return the entries of the folder that are not part of the bundle, including links."""
    paths = []
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        paths += [(Path(parent) / name).relative_to(folder).as_posix() for name in names + links]
    return sorted(set(paths) - expected - {SUMS, SIGNATURE})


def _metadata_fault(folder: Path, file: StoredFile) -> str:
    """Return the fault of a file that shows without reading it; empty if there is none."""
    path = folder / file.path
    # Also if a folder in the path is a link.
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"{file.path} leads out of the bundle"
    try:
        status = path.lstat()
    except OSError:
        return f"{file.path} is missing"
    if not stat.S_ISREG(status.st_mode):
        return f"{file.path} is not a file"
    if status.st_size != file.size:
        fault = "truncated" if status.st_size < file.size else "too long"
        return f"{file.path} is {fault}: expected {file.size} bytes, got {status.st_size}"
    return ""


def _content_fault(folder: Path, file: StoredFile, progress: Callable[[int], None]) -> str:
    try:
        with (folder / file.path).open("rb") as stream:
            _, digest = digest_of(stream, progress)
    except OSError as error:
        return f"{file.path} cannot be read: {error.strerror}"
    return "" if digest == file.sha256 else f"{file.path} is damaged: its sha256 is {digest}"


class _Progress:
    """Logs the number of bytes read every few seconds."""

    def __init__(self, total: int, log: Callable[[str], None]) -> None:
        self._total, self._log = total, log
        self._done, self._next = 0, time.monotonic() + _SECONDS

    def __call__(self, count: int) -> None:
        self._done += count
        if time.monotonic() > self._next:
            self._log(f"  {_size(self._done)} of {_size(self._total)}")
            self._next = time.monotonic() + _SECONDS


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"

"""Is a bundle whole? Every file is compared with its sum; every fault is told by its name."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from paddle_stacks.bundle.contents import (
    AGAIN,
    MANIFEST,
    OUTSIDE,
    SIGNATURE,
    SUMS,
    Manifest,
    Piece,
    read_sums,
)
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs.files import digest_of

__all__ = ["Stamp", "read", "stamp", "verify"]

Stamp = tuple[int, int, int]
"""What tells that a file is the one that was read before: size, time of change (ns), inode."""

_SECONDS = 5.0  # between two lines of progress


def read(folder: Path) -> tuple[Manifest, list[Piece]]:
    """Return a bundle's manifest, and every file that has to lie in its folder.

    Raises:
        RequestError: it is no bundle, its manifest is damaged, or the two lists of its
            files, the manifest and ``SHA256SUMS``, are not of one mind.
    """
    if not folder.is_dir():
        raise RequestError(
            "there is no such folder",
            where=str(folder),
            remedy="name the folder that bundle.create made, with SHA256SUMS in it",
        )
    sums = read_sums(folder / SUMS)
    path = folder / MANIFEST
    outside = [_outside(folder, name, sums) for name in OUTSIDE]
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sums[MANIFEST]:
        raise RequestError(f"{MANIFEST} is damaged", where=str(path), remedy=AGAIN)
    manifest = Manifest.from_json(content.decode("utf-8", errors="replace"), str(path))
    pieces = [*outside, *(piece for file in manifest.files for piece in file.pieces)]
    named = {piece.path: piece.sha256 for piece in pieces}
    if len(named) != len(pieces):
        raise RequestError("a file is named twice", where=str(path), remedy=AGAIN)
    if named != sums:
        other = sorted(p for p in set(named) | set(sums) if named.get(p) != sums.get(p))
        raise RequestError(
            f"{SUMS} and {MANIFEST} differ about {', '.join(other[:3])}",
            where=str(folder),
            remedy=AGAIN,
        )
    return manifest, pieces


def verify(
    folder: Path,
    say: Callable[[str], None],
    known: Mapping[str, Stamp] | None = None,
    found_whole: Callable[[str, Stamp], None] | None = None,
) -> Manifest:
    """Compare every file of a bundle with its sum and return the manifest.

    Args:
        folder: the bundle.
        say: told how far it is.
        known: the files that were whole before; those that did not change are not read again.
        found_whole: called with each file that is whole, as soon as it is known to be.

    Raises:
        RequestError: a file is missing, damaged, truncated, too long, not a file, or not
            the bundle's; all of them at once, by name.
    """
    manifest, pieces = read(folder)
    problems = [
        Problem(f"{name} is not the bundle's", str(folder), "move it elsewhere")
        for name in _strangers(folder, {piece.path for piece in pieces})
    ]
    say(f"comparing {len(pieces)} files with their sums, {_size(sum(p.size for p in pieces))}")
    progress = _Progress(sum(piece.size for piece in pieces), say)
    for piece in pieces:
        problem = _shape(folder, piece)
        if not problem:
            now = stamp(folder / piece.path)
            if known and known.get(piece.path) == now:
                progress(piece.size)
                continue
            problem = _content(folder, piece, progress)
            if not problem and found_whole:
                found_whole(piece.path, now)
        if problem:
            problems.append(Problem(problem, str(folder / piece.path), AGAIN))
    if problems:
        raise RequestError(problems)
    return manifest


def stamp(path: Path) -> Stamp:
    """Return what changes when the file does."""
    found = path.lstat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _outside(folder: Path, name: str, sums: Mapping[str, str]) -> Piece:
    """Return a file that the manifest cannot name, since it is made after it."""
    path = folder / name
    if not path.is_file() or path.is_symlink():
        raise RequestError(f"no bundle: {name} is missing", where=str(folder), remedy=AGAIN)
    if name not in sums:
        raise RequestError(f"{SUMS} does not name {name}", where=str(folder), remedy=AGAIN)
    return Piece(name, path.stat().st_size, sums[name])


def _strangers(folder: Path, expected: set[str]) -> list[str]:
    """Return what lies in the folder and is not the bundle's, links and pipes included."""
    found = []
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found += [(Path(place) / name).relative_to(folder).as_posix() for name in names + links]
    return sorted(set(found) - expected - {SUMS, SIGNATURE})


def _shape(folder: Path, piece: Piece) -> str:
    """Return what is wrong with a file that can be seen without reading it."""
    path = folder / piece.path
    # A link in the middle of the path would lead out of the folder too.
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"{piece.path} leads out of the bundle"
    try:
        found = path.lstat()
    except OSError:
        return f"{piece.path} is missing"
    if not stat.S_ISREG(found.st_mode):
        return f"{piece.path} is not a file"
    if found.st_size < piece.size:
        return f"{piece.path} is truncated: {found.st_size} of {piece.size} bytes"
    if found.st_size > piece.size:
        return f"{piece.path} is too long: {found.st_size} bytes and not {piece.size}"
    return ""


def _content(folder: Path, piece: Piece, told: Callable[[int], None]) -> str:
    try:
        with (folder / piece.path).open("rb") as stream:
            _, digest = digest_of(stream, told)
    except OSError as error:
        return f"{piece.path} cannot be read: {error.strerror}"
    return "" if digest == piece.sha256 else f"{piece.path} is damaged: its sha256 is {digest}"


class _Progress:
    """Tells how much of the whole was read, every few seconds."""

    def __init__(self, whole: int, say: Callable[[str], None]) -> None:
        self._whole, self._say = whole, say
        self._done, self._next = 0, time.monotonic() + _SECONDS

    def __call__(self, count: int) -> None:
        self._done += count
        if time.monotonic() > self._next:
            self._say(f"  {_size(self._done)} of {_size(self._whole)}")
            self._next = time.monotonic() + _SECONDS


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"

"""The files of a bundle that is being made: whole, or in numbered parts that fit a stick.

A file that was cut is there as its parts alone, and the whole is removed after the last of
them is: so what lies there says what it is, after an interruption too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from paddle_stacks.bundle.contents import File, Piece, open_joined
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.files import CHUNK, digest_of, replacing_file

__all__ = ["files", "forget", "held", "keep_only", "names", "split"]

_PART = re.compile(r"(.+)\.part\d{3}")
_MOST_PARTS = 999


def held(part: Path, path: str, split: int) -> list[Path]:
    """Return the pieces of a file that are there; none if it is not, or is split otherwise."""
    whole = part / path
    if whole.is_file():
        return [whole]
    pieces = sorted(whole.parent.glob(f"{whole.name}.part[0-9][0-9][0-9]"))
    # The whole is removed when all its parts are there.
    if pieces and all(piece.stat().st_size == split for piece in pieces[:-1]):
        return pieces
    forget(part, path)
    return []


def forget(part: Path, path: str) -> None:
    """Remove what is there of a file."""
    whole = part / path
    for piece in (whole, *whole.parent.glob(f"{whole.name}.part[0-9][0-9][0-9]")):
        piece.unlink(missing_ok=True)


def names(folder: Path) -> set[str]:
    """Return the files below a folder, parts by the name of the whole."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {_whole(name) for name in found}


def keep_only(part: Path, wanted: set[str]) -> None:
    """Remove what is there of an earlier run and is not among the wanted files."""
    for path in sorted(part.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif _whole(path.relative_to(part).as_posix()) not in wanted:
            path.unlink()


def split(part: Path, limit: int, say: Callable[[str], None]) -> None:
    """Cut the files that are larger than the limit into parts."""
    large = [p for p in part.rglob("*") if limit and p.is_file() and p.stat().st_size > limit]
    for path in sorted(large):
        count = -(-path.stat().st_size // limit)
        if count > _MOST_PARTS:
            raise RequestError(
                f"{path.name} would be in {count} parts", where="--split", remedy="larger parts"
            )
        say(f"{path.relative_to(part)}: in {count} parts")
        times = (path.stat().st_mtime_ns,) * 2
        with path.open("rb") as stream:
            for number in range(1, count + 1):
                piece = path.with_name(f"{path.name}.part{number:03}")
                with replacing_file(piece, "wb") as written:
                    _copy_some(stream, written, limit)
                os.utime(piece, ns=times)
        path.unlink()


def files(part: Path, purposes: Mapping[str, str]) -> Iterator[File]:
    """Yield the files that are there, with their sums, by name.

    Args:
        part: the bundle's folder.
        purposes: what the files of each top folder are for.
    """
    for name in sorted(names(part)):
        whole = part / name
        paths = [whole] if whole.is_file() else sorted(whole.parent.glob(f"{whole.name}.part*"))
        pieces = []
        for path in paths:
            with path.open("rb") as stream:
                pieces.append(Piece(path.relative_to(part).as_posix(), *digest_of(stream)))
        purpose = purposes[name.partition("/")[0]]
        if len(pieces) == 1 and pieces[0].path == name:
            yield File(name, pieces[0].size, pieces[0].sha256, purpose)
            continue
        with open_joined(part, pieces) as joined:
            yield File(name, *digest_of(joined), purpose, tuple(pieces))


def _whole(name: str) -> str:
    found = _PART.fullmatch(name)
    return found[1] if found else name


def _copy_some(source: IO[bytes], target: IO[bytes], count: int) -> None:
    while count and (chunk := source.read(min(count, CHUNK))):
        target.write(chunk)
        count -= len(chunk)

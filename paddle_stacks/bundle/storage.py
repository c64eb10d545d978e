"""Files of a bundle under construction: whole, or split into numbered parts.

When a file is split, the whole file is removed after the last part is written. After an
interruption, a whole file therefore takes precedence over its parts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from paddle_stacks.bundle.contents import File, StoredFile, open_joined
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.files import CHUNK, digest_of, replacing_file

__all__ = ["files", "names", "paths_of", "remove", "remove_others", "split"]

_PART = re.compile(r"(.+)\.part\d{3}")
_MOST_PARTS = 999


def paths_of(part: Path, path: str, split: int) -> list[Path]:
    """Return the whole file or its parts; [] if it does not exist or is split at another size."""
    whole = part / path
    if whole.is_file():
        return [whole]
    parts = _parts(whole)
    if parts and all(each.stat().st_size == split for each in parts[:-1]):
        return parts
    remove(part, path)
    return []


def remove(part: Path, path: str) -> None:
    """Remove a file and its parts."""
    for each in (part / path, *_parts(part / path)):
        each.unlink(missing_ok=True)


def names(folder: Path) -> set[str]:
    """Return the files below a folder; parts under the name of the whole file."""
    paths = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {_whole(path) for path in paths}


def remove_others(part: Path, paths: set[str]) -> None:
    """Remove all files of earlier runs except the named ones, and empty folders."""
    for path in sorted(part.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif _whole(path.relative_to(part).as_posix()) not in paths:
            path.unlink()


def split(part: Path, limit: int, log: Callable[[str], None]) -> None:
    """Split the files that are larger than the limit into parts."""
    large = [p for p in part.rglob("*") if limit and p.is_file() and p.stat().st_size > limit]
    for path in sorted(large):
        count = -(-path.stat().st_size // limit)
        if count > _MOST_PARTS:
            raise RequestError(
                f"{path.name} would have {count} parts, the maximum is {_MOST_PARTS}",
                where="--split",
                remedy="set a larger size",
            )
        log(f"{path.relative_to(part)}: {count} parts")
        times = (path.stat().st_mtime_ns,) * 2
        with path.open("rb") as stream:
            for number in range(1, count + 1):
                target = path.with_name(f"{path.name}.part{number:03}")
                with replacing_file(target, "wb") as copy:
                    _copy_some(stream, copy, limit)
                os.utime(target, ns=times)
        path.unlink()


def files(part: Path, purposes: Mapping[str, str]) -> Iterator[File]:
    """Yield the files with their checksums, sorted by name.

    Args:
        part: the bundle's folder.
        purposes: descriptions of the files by top folder.
    """
    for name in sorted(names(part)):
        whole = part / name
        stored = []
        for path in [whole] if whole.is_file() else _parts(whole):
            with path.open("rb") as stream:
                stored.append(StoredFile(path.relative_to(part).as_posix(), *digest_of(stream)))
        purpose = purposes[name.partition("/")[0]]
        if whole.is_file():
            yield File(name, stored[0].size, stored[0].sha256, purpose)
            continue
        with open_joined(part, stored) as joined:
            yield File(name, *digest_of(joined), purpose, tuple(stored))


def _parts(whole: Path) -> list[Path]:
    return sorted(whole.parent.glob(f"{whole.name}.part[0-9][0-9][0-9]"))


def _whole(name: str) -> str:
    match = _PART.fullmatch(name)
    return match[1] if match else name


def _copy_some(source: IO[bytes], target: IO[bytes], count: int) -> None:
    while count and (chunk := source.read(min(count, CHUNK))):
        target.write(chunk)
        count -= len(chunk)

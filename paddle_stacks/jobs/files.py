"""Atomic replacement of files and folders, and SHA-256 sums."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

__all__ = [
    "CHUNK",
    "digest_of",
    "exchange",
    "remove_unfinished",
    "replacing_file",
    "replacing_folder",
    "sha256_of",
    "sync_folder",
    "sync_tree",
    "update_digest",
]

CHUNK = 2**20
"""Bytes per read."""

_PART, _OLD = ".part", ".old"
_RANDOM = "?" * 8  # the random part of tempfile's names

# Of linux/fs.h and fcntl.h; renameat2(2) is in Linux since 3.15, and in glibc since 2.28.
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def digest_of(
    stream: IO[bytes],
    progress: Callable[[int], None] | None = None,
    copy: IO[bytes] | None = None,
) -> tuple[int, str]:
    """Return the length and the SHA-256 of a stream, in hexadecimal.

    Args:
        stream: read to its end.
        progress: called with the number of bytes of each chunk.
        copy: the stream is also written to this file; None for no copy.
    """
    digest = hashlib.sha256()
    size = _feed(digest, stream, progress, copy)
    return size, digest.hexdigest()


def sha256_of(*paths: Path, progress: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of files, one after the other, in hexadecimal.

    Args:
        *paths: the files.
        progress: called with the number of bytes of each chunk.
    """
    digest = hashlib.sha256()
    for path in paths:
        update_digest(digest, path, progress)
    return digest.hexdigest()


def update_digest(digest: Any, path: Path, progress: Callable[[int], None] | None = None) -> None:
    """Add the content of a file to a digest.

    Args:
        digest: an object of :mod:`hashlib`.
        path: the file.
        progress: called with the number of bytes of each chunk.
    """
    with path.open("rb") as stream:
        _feed(digest, stream, progress)


def _feed(
    digest: Any,
    stream: IO[bytes],
    progress: Callable[[int], None] | None,
    copy: IO[bytes] | None = None,
) -> int:
    size = 0
    while chunk := stream.read(CHUNK):
        size += len(chunk)
        digest.update(chunk)
        if copy:
            copy.write(chunk)
        if progress:
            progress(len(chunk))
    return size


@contextmanager
def replacing_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Yield a file that replaces ``path`` when the block ends without an error.

    It is written under a temporary name in the same folder, flushed to the disk, then
    renamed. If the block raises, it is removed and ``path`` does not change.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = None if "b" in mode else "utf-8"
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent)
    try:
        with os.fdopen(descriptor, mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces ``path`` when the block ends without an error.

    An existing folder is exchanged with it atomically and removed afterwards. On a file
    system that cannot exchange (NFS), ``path`` is missing between two renames. If the block
    raises, ``path`` does not change.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent))
    try:
        yield part
        part.chmod(0o777 & ~_umask())
        sync_tree(part)
        exchange(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Flush every file below ``folder``, and the folders themselves, to the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(Path(root))


def remove_unfinished(path: Path) -> None:
    """Remove temporary files and folders that killed processes left beside ``path``.

    A folder that was moved aside and not replaced gets its name back.

    Args:
        path: the file or folder; no other process may be writing it.
    """
    pattern = f".{glob.escape(path.name)}.{_RANDOM}"
    for old in path.parent.glob(pattern + _OLD):
        if path.exists():
            _remove(old)
        else:
            old.rename(path)
    for part in path.parent.glob(pattern + _PART):
        _remove(part)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(part: Path, path: Path) -> None:
    """Rename the folder ``part`` to ``path``, and remove the folder of that name."""
    if not path.exists():
        os.rename(part, path)
        return
    if _change_places(part, path):
        _remove(part, ignore_errors=True)
        return
    old = part.with_suffix(_OLD)
    os.rename(path, old)
    try:
        os.rename(part, path)
    except OSError:
        os.rename(old, path)
        raise
    _remove(old, ignore_errors=True)


def _remove(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove a file, a link or a folder; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=ignore_errors)
        return
    with suppress(*([OSError] if ignore_errors else [])):
        path.unlink()


def _change_places(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; return whether the file system can do that."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if library.renameat2(*names, _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""What a bundle holds: its files with their sums, and what they are for.

``manifest.json`` says it all, ``SHA256SUMS`` has the sums of every file that lies in the
folder for ``sha256sum -c``. A file that was too large for a stick lies there in numbered
parts; :func:`open_joined` reads it as if it were whole.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.jobs.files import CHUNK

__all__ = [
    "AGAIN",
    "FORMAT",
    "MANIFEST",
    "OUTSIDE",
    "PROGRAM",
    "README",
    "SIGNATURE",
    "SUMS",
    "File",
    "Image",
    "Manifest",
    "Piece",
    "check_name",
    "open_joined",
    "read_sums",
    "telling_of_room",
    "write_sums",
]

FORMAT = 1
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
PROGRAM = "bundle.pyz"
README = "README.md"
OUTSIDE = (MANIFEST, README, PROGRAM)
"""The files that have sums and are not in the manifest."""

AGAIN = "copy it again from where the bundle was made"
"""What to do about a file that is not what it should be."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Piece:
    """A file as it lies in the bundle.

    Args:
        path: below the bundle's folder, with ``/``.
        size: bytes.
        sha256: 64 hexadecimal digits.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class File:
    """A file as it is when it is loaded.

    Args:
        path: below the bundle's folder, with ``/``; its first part says where it goes.
        size: bytes.
        sha256: 64 hexadecimal digits.
        purpose: what it is for, for people.
        parts: what lies in the bundle instead, in order; empty if the file itself does.
    """

    path: str
    size: int
    sha256: str
    purpose: str
    parts: tuple[Piece, ...] = ()

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What lies in the bundle."""
        return self.parts or (Piece(self.path, self.size, self.sha256),)


@dataclass(frozen=True)
class Image:
    """An image in the bundle.

    Args:
        id: the digest of its configuration, ``sha256:…``; most engines call an image by it.
        manifest: the digest of its manifest; the other engines call it by that.
        tags: its names.
        diff_ids: its layers' digests, the first first.
        layers: their files' digests, which differ from those where layers are compressed.
        labels: its labels.
    """

    id: str
    manifest: str
    tags: tuple[str, ...]
    diff_ids: tuple[str, ...]
    layers: tuple[str, ...]
    labels: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    Args:
        created: when it was made, in UTC.
        version: the project's version.
        revision: its commit, with ``-dirty`` if the files differ from it.
        backend: the platform of the images.
        models: their names, in ``models/``.
        data: the names of the folders in ``data/``.
        pythons: the versions of Python that it can make the project's environment for.
        rebuild: whether it has what the images are built from.
        images: the images, parents before children.
        files: all that is loaded.
    """

    created: str
    version: str
    revision: str
    backend: str
    models: tuple[str, ...]
    data: tuple[str, ...]
    pythons: tuple[str, ...]
    rebuild: bool
    images: tuple[Image, ...]
    files: tuple[File, ...]

    def below(self, folder: str) -> list[File]:
        """Return the files in a folder of the bundle."""
        return [file for file in self.files if file.path.startswith(f"{folder}/")]

    def to_json(self) -> str:
        """Return the text of ``manifest.json``."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Read the text of ``manifest.json``.

        Raises:
            RequestError: it is none, of another format, or names a file that would be
                written outside its folder.
        """
        try:
            document = json.loads(text)
            known = document["format"]
            if known != FORMAT:
                raise RequestError(
                    f"this bundle has the format {known!r}, and {FORMAT} is known here",
                    where=where,
                    remedy="use the bundle.pyz that lies in the bundle",
                )
            return cls(
                created=_text(document["created"]),
                version=_text(document["version"]),
                revision=_text(document["revision"]),
                backend=_text(document["backend"]),
                models=_texts(document["models"]),
                data=_texts(document["data"]),
                pythons=_texts(document["pythons"]),
                rebuild=document["rebuild"] is True,
                images=tuple(map(_image, document["images"])),
                files=tuple(map(_file, document["files"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = f"{type(error).__name__}: {error}"
            raise RequestError(
                f"not a bundle's manifest: {what}", where=where, remedy=AGAIN
            ) from error


def check_name(path: str) -> str:
    """Return the path of a file in a bundle if it is one that stays in its folder.

    Raises:
        RequestError: it is absolute, leads out of the folder, or has a character that
            ``SHA256SUMS`` would have to escape.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or not path.isprintable() or "\\" in path:
        raise RequestError(
            f"a file may not be called {path!r}: it would leave the folder",
            remedy="rename it where the bundle is made; do not load what has such a name",
        )
    return path


def open_joined(folder: Path, pieces: Sequence[Piece]) -> BinaryIO:
    """Return a stream of the pieces in ``folder``, one after the other.

    Each is compared with its size and sum as it is read: what was whole when the bundle was
    verified can be something else by now. The last byte of one that differs is not given out.

    Raises:
        RequestError: on reading, a piece is not what its size and sum say.
    """
    return cast(BinaryIO, io.BufferedReader(_Joined(folder, pieces), CHUNK))


def read_sums(path: Path) -> dict[str, str]:
    """Return the sums in ``SHA256SUMS``: a path to its 64 digits.

    Raises:
        RequestError: it cannot be read, or has a line that ``sha256sum`` does not write.
    """
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"no bundle: {path.name} cannot be read: {error}",
            where=str(path),
            remedy="name the folder that bundle.create made, with SHA256SUMS in it",
        ) from error
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        digest, separator, name = line[:64], line[64:66], line[66:]
        where = f"{path}:{number}"
        if separator not in ("  ", " *") or not _DIGEST.fullmatch(digest):
            raise RequestError("not a line of sha256sum", where=where, remedy=AGAIN)
        if name in found:
            raise RequestError(f"{name} is named twice", where=where, remedy=AGAIN)
        found[check_name(name)] = digest
    return found


def write_sums(sums: Mapping[str, str]) -> str:
    """Return the text of ``SHA256SUMS``."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items()))


@contextmanager
def telling_of_room(folder: Path) -> Iterator[None]:
    """Make a disk that is full while ``folder`` grows a MachineError with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise MachineError(
            "no room left on the device",
            where=str(folder),
            remedy="make room, then start again: it goes on from here",
        ) from error


class _Joined(io.RawIOBase):
    """Several files as one, opened when their turn comes."""

    def __init__(self, folder: Path, pieces: Sequence[Piece]) -> None:
        self._pieces = iter(pieces)
        self._folder = folder
        self._piece = Piece("", 0, "")
        self._open: io.FileIO | None = None
        self._size, self._digest = 0, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._open is None:
                piece = next(self._pieces, None)
                if piece is None:
                    return 0
                self._piece = piece
                self._open = io.FileIO(self._folder / piece.path)
                self._size, self._digest = 0, hashlib.sha256()
            # Not beyond its end: whether it is whole is known before its last byte is given out.
            count = self._open.readinto(memoryview(buffer)[: self._piece.size - self._size or 1])
            self._size += count
            self._digest.update(memoryview(buffer)[:count])
            if not count or self._size >= self._piece.size:
                self._compare()
            if count:
                return count
            self._open.close()
            self._open = None

    def _compare(self) -> None:
        whole = self._size == self._piece.size
        if not whole or self._digest.hexdigest() != self._piece.sha256:
            raise RequestError(
                f"{self._piece.path} has changed since it was verified",
                where=str(self._folder / self._piece.path),
                remedy=AGAIN,
            )

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        super().close()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(map(_text, value))


def _piece(value: Mapping[str, Any]) -> Piece:
    path, size, digest = check_name(_text(value["path"])), value["size"], _text(value["sha256"])
    if type(size) is not int or size < 0 or not _DIGEST.fullmatch(digest):
        raise ValueError(f"{path} has no size or no sum")
    return Piece(path, size, digest)


def _file(value: Mapping[str, Any]) -> File:
    whole = _piece(value)
    parts = tuple(map(_piece, value["parts"]))
    if parts and sum(part.size for part in parts) != whole.size:
        raise ValueError(f"the parts of {whole.path} are not as long as it is")
    return File(whole.path, whole.size, whole.sha256, _text(value["purpose"]), parts)


def _image(value: Mapping[str, Any]) -> Image:
    image = Image(
        _text(value["id"]),
        _text(value["manifest"]),
        _texts(value["tags"]),
        _texts(value["diff_ids"]),
        _texts(value["layers"]),
        {_text(key): _text(label) for key, label in value["labels"].items()},
    )
    for digest in (image.id, image.manifest, *image.diff_ids, *image.layers):
        if not re.fullmatch(rf"sha256:{_DIGEST.pattern}", digest):
            raise ValueError(f"{digest} is no digest")
    if len(image.layers) != len(image.diff_ids):
        raise ValueError(f"the layers of {image.id} are not as many as their digests")
    # They become arguments of `docker`.
    for tag in image.tags:
        if not re.fullmatch(r"[a-z0-9][\w.:/-]*", tag, re.ASCII):
            raise ValueError(f"{tag!r} is no name of an image")
    return image

"""Contents of a bundle: its files with their checksums and purposes.

``manifest.json`` describes them, and ``SHA256SUMS`` has the checksums of all files in the folder
for ``sha256sum -c``. Files above the size limit are stored in numbered parts;
:func:`open_joined` reads the parts as one stream.
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
    "COPY_AGAIN",
    "FORMAT",
    "MANIFEST",
    "PROGRAM",
    "README",
    "SIGNATURE",
    "SUMS",
    "UNLISTED",
    "File",
    "Image",
    "Manifest",
    "StoredFile",
    "check_name",
    "digits",
    "disk_full_as_error",
    "not_a_bundle",
    "open_joined",
    "read_sums",
    "write_sums",
]

FORMAT = 1
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
PROGRAM = "bundle.pyz"
README = "README.md"
UNLISTED = (MANIFEST, README, PROGRAM)
"""The files that are in ``SHA256SUMS`` and not in the manifest."""

COPY_AGAIN = "copy it again from the original bundle"
"""The remedy for a damaged file."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredFile:
    """A file in the bundle's folder: a whole file, or a part of one.

    Args:
        path: relative to the bundle's folder, with ``/``.
        size: bytes.
        sha256: 64 hexadecimal digits.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class File:
    """A file of the bundle, whether it is stored whole or in parts.

    Args:
        path: relative to the bundle's folder, with ``/``; the first folder is its category.
        size: bytes.
        sha256: 64 hexadecimal digits.
        purpose: a description for people.
        parts: the parts in order; empty if the file is stored whole.
    """

    path: str
    size: int
    sha256: str
    purpose: str
    parts: tuple[StoredFile, ...] = ()

    @property
    def stored(self) -> tuple[StoredFile, ...]:
        """The files in the bundle's folder that it is stored in."""
        return self.parts or (StoredFile(self.path, self.size, self.sha256),)


@dataclass(frozen=True)
class Image:
    """An image in the bundle.

    Args:
        id: digest of its configuration, ``sha256:…``; the image's id in most engines.
        manifest: digest of its manifest; the image's id in engines with containerd's store.
        tags: its names.
        diff_ids: digests of its uncompressed layers, starting with the first.
        layers: digests of the layers' files, which differ if layers are compressed.
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
    """The contents of a bundle.

    Args:
        created: the time in UTC.
        version: of the project.
        revision: the project's commit, with ``-dirty`` if files differ from it.
        backend: of the images.
        models: names of the models in ``models/``.
        data: names of the folders in ``data/``.
        pythons: versions of Python for which it has the project's environment.
        rebuild: whether it has the inputs for building the images.
        images: parents before children.
        files: all files that are loaded.
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
            RequestError: not a manifest, another format, or a path outside the folder.
        """
        try:
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise RequestError(
                    f"the bundle has the format {document['format']!r}, expected {FORMAT}",
                    where=where,
                    remedy="use the bundle.pyz in the bundle",
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
            raise RequestError(
                f"not a bundle's manifest: {type(error).__name__}: {error}",
                where=where,
                remedy=COPY_AGAIN,
            ) from error


def not_a_bundle(folder: Path, reason: str) -> RequestError:
    """Return the error for a folder that is not a bundle."""
    return RequestError(
        f"not a bundle: {reason}",
        where=str(folder),
        remedy=f"name a folder that ./inv bundle.create wrote; it has a file {SUMS}",
    )


def digits(digest: str) -> str:
    """Return the digits of a digest such as ``sha256:…``."""
    return digest.partition(":")[2]


def check_name(path: str) -> str:
    """Return the path of a file in a bundle if it stays in the bundle's folder.

    Raises:
        RequestError: it is absolute, leads out of the folder, or has a character that
            ``SHA256SUMS`` would have to escape.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or not path.isprintable() or "\\" in path:
        raise RequestError(
            f"{path!r} is not allowed as a path in a bundle",
            remedy="rename the file and create the bundle again; do not load this one",
        )
    return path


def open_joined(folder: Path, files: Sequence[StoredFile]) -> BinaryIO:
    """Return a stream of the files in ``folder``, one after the other.

    Each file is compared with its size and checksum again, because it may have changed since
    the bundle was verified. The last byte of a file that differs is not returned.

    Raises:
        RequestError: while reading, a file differs from its size or checksum.
    """
    return cast(BinaryIO, io.BufferedReader(_Joined(folder, files), CHUNK))


def read_sums(path: Path) -> dict[str, str]:
    """Return the checksums in ``SHA256SUMS``, 64 digits by path.

    Raises:
        RequestError: it cannot be read, or has a line that ``sha256sum`` would not write.
    """
    sums: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise not_a_bundle(path.parent, f"{path.name} cannot be read: {error}") from error
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        digest, separator, name = line[:64], line[64:66], line[66:]
        where = f"{path}:{number}"
        if separator not in ("  ", " *") or not _DIGEST.fullmatch(digest):
            raise RequestError("not a line of sha256sum", where=where, remedy=COPY_AGAIN)
        if name in sums:
            raise RequestError(f"{name} is listed twice", where=where, remedy=COPY_AGAIN)
        sums[check_name(name)] = digest
    return sums


def write_sums(sums: Mapping[str, str]) -> str:
    """Return the text of ``SHA256SUMS``."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items()))


@contextmanager
def disk_full_as_error(folder: Path) -> Iterator[None]:
    """Raise a MachineError with a remedy if the disk of ``folder`` becomes full."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise MachineError(
            "no space left on the device",
            where=str(folder),
            remedy="free space and run the same command again; it continues from here",
        ) from error


class _Joined(io.RawIOBase):
    """A stream of several files, which are opened one after the other."""

    def __init__(self, folder: Path, files: Sequence[StoredFile]) -> None:
        self._files = iter(files)
        self._folder = folder
        self._file = StoredFile("", 0, "")
        self._open: io.FileIO | None = None
        self._size, self._digest = 0, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._open is None:
                file = next(self._files, None)
                if file is None:
                    return 0
                self._file = file
                self._open = io.FileIO(self._folder / file.path)
                self._size, self._digest = 0, hashlib.sha256()
            # Not beyond the file's end, so that it is compared before its last byte is returned.
            count = self._open.readinto(memoryview(buffer)[: self._file.size - self._size or 1])
            self._size += count
            self._digest.update(memoryview(buffer)[:count])
            if not count or self._size >= self._file.size:
                self._compare()
            if count:
                return count
            self._open.close()
            self._open = None

    def _compare(self) -> None:
        file = self._file
        if self._size != file.size or self._digest.hexdigest() != file.sha256:
            raise RequestError(
                f"{file.path} has changed since it was verified",
                where=str(self._folder / file.path),
                remedy=COPY_AGAIN,
            )

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        super().close()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return tuple(map(_text, value))


def _stored_file(value: Mapping[str, Any]) -> StoredFile:
    path, size, digest = check_name(_text(value["path"])), value["size"], _text(value["sha256"])
    if type(size) is not int or size < 0 or not _DIGEST.fullmatch(digest):
        raise ValueError(f"{path} has no valid size or checksum")
    return StoredFile(path, size, digest)


def _file(value: Mapping[str, Any]) -> File:
    whole = _stored_file(value)
    parts = tuple(map(_stored_file, value["parts"]))
    if parts and sum(part.size for part in parts) != whole.size:
        raise ValueError(f"the sizes of the parts of {whole.path} do not add up")
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
            raise ValueError(f"{digest} is not a digest")
    if len(image.layers) != len(image.diff_ids):
        raise ValueError(f"{image.id} has another number of layers than of diff ids")
    # Tags become arguments of `docker`.
    for tag in image.tags:
        if not re.fullmatch(r"[a-z0-9][\w.:/-]*", tag, re.ASCII):
            raise ValueError(f"{tag!r} is not the name of an image")
    return image

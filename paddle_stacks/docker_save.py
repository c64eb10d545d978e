"""The archive of ``docker save``, read while the engine writes it."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from paddle_stacks.errors import MachineError

__all__ = ["saved"]


@contextmanager
def saved(references: Sequence[str], remedy: str) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Yield an iterator of the files in the archive of images: names and contents.

    A content must be read before the next file is taken.

    Args:
        references: tags or ids of the images.
        remedy: what to do if saving fails.

    Raises:
        MachineError: ``docker save`` fails, or the block cannot read an archive.
    """
    with subprocess.Popen(
        ["docker", "save", *references], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as save:
        assert save.stdout is not None and save.stderr is not None
        try:
            with tarfile.open(fileobj=save.stdout, mode="r|") as archive:
                yield _files(archive)
            fault = ""
        except tarfile.TarError as error:
            save.kill()
            fault = str(error)
        message = save.stderr.read().decode(errors="replace").strip()
    if fault or save.returncode:
        raise MachineError(f"docker save failed: {message or fault}", remedy=remedy)


def _files(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for member in archive:
        content = archive.extractfile(member) if member.isfile() else None
        if content is not None:
            yield member.name, content

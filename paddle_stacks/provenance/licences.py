"""Licences of an image's packages, from the list in the image."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paddle_stacks.errors import MachineError
from paddle_stacks.images import Image

if TYPE_CHECKING:
    import docker

__all__ = ["LIST", "Licence", "parse", "read", "show"]

LIST = "/opt/licenses.json"
"""The list's path in an image; ``images/steps/licences.py`` writes it."""


@dataclass(frozen=True)
class Licence:
    """The licence of a package or of copied source code.

    Args:
        kind: ``deb``, ``pypi``, ``rpm`` or ``source``.
        name: of the package.
        version: of the package; empty for source code.
        licence: from the package's metadata; empty if unknown.
        texts: paths of the licence's text in the image.
    """

    kind: str
    name: str
    version: str
    licence: str
    texts: tuple[str, ...]


def read(client: docker.DockerClient, image: Image) -> list[Licence]:
    """Return the list of an image, from a container that is created but never started.

    Raises:
        MachineError: the image has no list.
    """
    import docker.errors

    container = client.containers.create(image.id, ["true"], network_mode="none")
    try:
        chunks, _ = container.get_archive(LIST)
        archive = io.BytesIO(b"".join(chunks))
    except docker.errors.NotFound as error:
        raise MachineError(
            f"{image.tags[0]} has no list of licences: it was built by an older version",
            where=LIST,
            remedy="./inv build",
        ) from error
    finally:
        container.remove(force=True)
    with tarfile.open(fileobj=archive) as members:
        content = members.extractfile(LIST.rpartition("/")[2])
        assert content is not None
        return parse(content.read())


def parse(content: bytes) -> list[Licence]:
    """Return the list in a file.

    Raises:
        MachineError: the file is not a list of licences.
    """
    try:
        return [
            Licence(row["kind"], row["name"], row["version"], row["license"], tuple(row["texts"]))
            for row in json.loads(content)["packages"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise MachineError(
            f"the image's list of licences cannot be read: {error}",
            where=LIST,
            remedy="./inv build",
        ) from error


def show(image: Image, licences: Sequence[Licence]) -> None:
    """Print the licences as a table, and below it those that are unknown or have no text."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, title=image.tags[0], title_justify="left")
    for heading in ("kind", "package", "version", "licence"):
        table.add_column(heading, overflow="fold")
    for row in licences:
        table.add_row(row.kind, row.name, row.version, row.licence or "unknown")
    console.print(table)
    for heading, rows in (
        ("of unknown licence", [row for row in licences if not row.licence]),
        ("without a text in the image", [row for row in licences if not row.texts]),
    ):
        names = ", ".join(dict.fromkeys(row.name for row in rows)) or "none"
        console.print(f"\n{len(rows)} {heading}: {names}", soft_wrap=True, markup=False)

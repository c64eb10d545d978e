"""The licences of what is in an image, from the list that the image has in itself."""

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
"""Where an image has the list; ``images/base/licences.py`` writes it."""


@dataclass(frozen=True)
class Licence:
    """The licence of one package, or of a source that is none.

    Args:
        kind: ``deb``, ``pypi``, ``rpm`` or ``source``.
        name: the package's.
        version: its own; empty for a source.
        licence: as the package tells it; empty where that is not known.
        texts: the files in the image that have the text.
    """

    kind: str
    name: str
    version: str
    licence: str
    texts: tuple[str, ...]


def read(client: docker.DockerClient, image: Image) -> list[Licence]:
    """Return the list of an image, out of a container that is made and never started.

    Raises:
        MachineError: the image has none.
    """
    import docker.errors

    container = client.containers.create(image.id, ["true"], network_mode="none")
    try:
        chunks, _ = container.get_archive(LIST)
        archive = io.BytesIO(b"".join(chunks))
    except docker.errors.NotFound as error:
        raise MachineError(
            f"{image.tags[0]} has no list of licences: it was built before there was one",
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
        MachineError: it is no such list.
    """
    try:
        return [
            Licence(row["kind"], row["name"], row["version"], row["license"], tuple(row["texts"]))
            for row in json.loads(content)["packages"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        what = f"the image's list of licences cannot be read: {error}"
        raise MachineError(what, where=LIST, remedy="./inv build") from error


def show(image: Image, found: Sequence[Licence]) -> None:
    """Print the list as a table, and what is not known below it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, title=image.tags[0], title_justify="left")
    for heading in ("kind", "package", "version", "licence"):
        table.add_column(heading, overflow="fold")
    for row in found:
        table.add_row(row.kind, row.name, row.version, row.licence or "unknown")
    console.print(table)
    for what, rows in (
        ("of unknown licence", [row for row in found if not row.licence]),
        ("without a text in the image", [row for row in found if not row.texts]),
    ):
        names = ", ".join(dict.fromkeys(row.name for row in rows)) or "none"
        console.print(f"\n{len(rows)} {what}: {names}", soft_wrap=True, markup=False)

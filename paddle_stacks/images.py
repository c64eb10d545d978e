"""Contents of the images: sizes, layers, versions and labels, from the engine."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from paddle_stacks.errors import MachineError, RequestError, suggest
from paddle_stacks.plan.make import build_command

if TYPE_CHECKING:
    import docker

__all__ = ["Image", "Layer", "inspect_all", "instruction", "megabytes", "show"]


@dataclass(frozen=True)
class Layer:
    """The layer of one instruction.

    Args:
        size: bytes.
        instruction: the instruction in the Dockerfile, shortened.
    """

    size: int
    instruction: str


@dataclass(frozen=True)
class Image:
    """An image of the project.

    Args:
        name: the target in ``docker-bake.hcl``.
        tags: its references.
        id: the engine's id.
        size: bytes, uncompressed, including layers shared with its parents.
        layers: the layers that are not empty, from the first to the last.
        labels: its labels.
    """

    name: str
    tags: tuple[str, ...]
    id: str
    size: int
    layers: tuple[Layer, ...]
    labels: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the image as JSON-serializable values."""
        return asdict(self)


def inspect_all(client: docker.DockerClient, backend: str, only: str | None = None) -> list[Image]:
    """Return the project's images for a backend, the smallest first.

    Raises:
        RequestError: ``only`` names an image that does not exist.
        MachineError: none has been built.
    """
    images = [
        _inspect(image, tag)
        for image in client.images.list()
        for tag in image.tags
        if re.fullmatch(rf"paddle-stacks/[a-z]+:{re.escape(backend)}", tag)
    ]
    images.sort(key=lambda image: image.size)
    if not images:
        remedy = f"build them: {build_command('all', backend)}"
        raise MachineError(f"no image for {backend} exists", remedy=remedy)
    if only is None:
        return images
    chosen = [image for image in images if image.name == only]
    if not chosen:
        names = [image.name for image in images]
        raise RequestError(f'no image is named "{only}"', remedy=suggest(only, names, "images"))
    return chosen


def show(images: list[Image], *, details: bool) -> None:
    """Print the images as a table; with details, the layers and labels of each."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("image", "size", "layers", "paddle", "paddlenlp", "revision", "OS from"):
        table.add_column(heading, justify="right" if heading in ("size", "layers") else "left")
    for image in images:
        label = image.labels.get
        table.add_row(
            image.name,
            megabytes(image.size),
            str(len(image.layers)),
            label("paddle-stacks.paddle.version", "?"),
            label("paddle-stacks.paddlenlp.version", "?"),
            label("org.opencontainers.image.revision", "?")[:12],
            label("paddle-stacks.os.source", "?"),
        )
    console.print(table)
    if details:
        for image in images:
            _show_details(console, image)


def _show_details(console: Any, image: Image) -> None:
    console.print(f"\nlayers of {image.tags[0]}, from the first to the last")
    for layer in image.layers:
        console.print(f"  {megabytes(layer.size):>10}  {layer.instruction}", soft_wrap=True)
    console.print("\nlabels")
    for key, value in sorted(image.labels.items()):
        console.print(f"  {key} = {value}", soft_wrap=True)


def _inspect(image: Any, tag: str) -> Image:
    """Return an image; the tag comes first in its tags."""
    layers = tuple(
        Layer(entry["Size"], instruction(entry["CreatedBy"]))
        for entry in reversed(image.history())
        if entry["Size"]
    )
    name = tag.partition("/")[2].partition(":")[0]
    tags = (tag, *(other for other in image.tags if other != tag))
    return Image(name, tags, image.id, image.attrs["Size"], layers, image.labels)


def instruction(text: str) -> str:
    """Return an instruction of an image's history as in the Dockerfile, shortened."""
    text = re.sub(r"\|\d+ \S+=\S+ ", "", text).replace("# buildkit", "")
    text = text.replace("/bin/sh -eu -c ", "").replace("/bin/sh -c ", "")
    text = " ".join(text.split()) or "the OS image"
    return text if len(text) <= 100 else text[:99] + "…"


def megabytes(size: int) -> str:
    """Return a size for people, such as ``12.3 MB``."""
    return f"{size / 1e6:.1f} MB"

"""Images of the engine, saved as blobs of a bundle."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from paddle_stacks import __version__, build
from paddle_stacks.build import os_image
from paddle_stacks.bundle import images
from paddle_stacks.bundle.contents import Image, digits
from paddle_stacks.bundle.storage import paths_of
from paddle_stacks.docker_save import saved
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.jobs.files import digest_of, replacing_file
from paddle_stacks.plan.make import build_command, image_name
from paddle_stacks.settings import Settings

if TYPE_CHECKING:
    import docker

__all__ = ["ImageToSave", "find", "own_size", "save"]

_MEDIA = "application/vnd.oci.image"
_FAILED = "read the engine's log (journalctl -u docker); the same command continues"
_ENGINE = "bundle.create needs Docker Engine 25 or newer; loading works with older engines"


@dataclass(frozen=True)
class ImageToSave:
    """An image to save.

    Args:
        reference: its name in the engine.
        tags: its names in the bundle.
        id: its id in the engine.
        layers: digests of its layers.
        size: bytes, including shared layers.
    """

    reference: str
    tags: tuple[str, ...]
    id: str
    layers: tuple[str, ...]
    size: int


def find(
    chosen: Sequence[str], rebuild: bool, settings: Settings, client: docker.DockerClient
) -> list[ImageToSave]:
    """Return the images to save, parents before children.

    Args:
        chosen: targets of ``docker-bake.hcl``; () for all images of the backend.
        rebuild: also save the OS image, and for a DCU the DTK image.
        settings: the backend.
        client: of the engine.

    Raises:
        RequestError: a target is unknown, or an image is set by its digest.
        MachineError: an image is not built.
    """
    build.check(tuple(chosen), settings.root)
    targets = _targets(settings) if not chosen or "all" in chosen else chosen
    tags: dict[str, tuple[str, ...]] = {}
    for target in targets:
        name = image_name(target, settings.backend)
        tags[name] = (name, image_name(target, f"{__version__}-{settings.backend}"))
    if rebuild:
        for reference, default in _parents(settings, client):
            if "@" in reference:
                raise RequestError(
                    f"{reference} is set by its digest, which only a registry can resolve",
                    where="os_image, dtk_image",
                    remedy="give it a name (docker tag), and set that name",
                )
            tags[reference] = (default,)
    inspected = {name: _inspect(client, name, names) for name, names in tags.items()}
    if missing := [name for name, image in inspected.items() if image is None]:
        raise MachineError(
            f"{', '.join(missing)}: not built",
            remedy=f"build first: {build_command('all', settings.backend)}",
        )
    return sorted(filter(None, inspected.values()), key=lambda image: len(image.layers))


def save(
    part: Path, sources: Sequence[ImageToSave], split: int, log: Callable[[str], None]
) -> tuple[tuple[Image, ...], set[str]]:
    """Write the blobs of images to the bundle, except those that exist.

    Args:
        part: the bundle's folder.
        sources: the images, parents before children.
        split: the maximum size of a file in bytes; 0 for no limit.
        log: called with a line if the engine must save images.

    Returns:
        The images for the manifest, and the paths of their files.

    Raises:
        MachineError: ``docker save`` fails, or the engine is too old for an OCI layout.
    """
    if all(_is_saved(part, image, split) for image in sources):
        archive = [_entry(image) for image in sources]
    else:
        log(f"images: {', '.join(image.tags[0] for image in sources)}")
        archive = _stream(part, [image.reference for image in sources], split)
    by_tag = {tag: entry for entry in archive for tag in entry.get("RepoTags") or ()}
    bundled: list[Image] = []
    for image in sources:
        entry = by_tag.get(_full_name(image.reference))
        if entry is None:
            raise MachineError(f"docker save left out {image.reference}", remedy=_ENGINE)
        bundled.append(_describe(part, image.tags, entry, split))
    paths = {_path(d) for i in bundled for d in (i.id, i.manifest, *i.layers)}
    sizes = {i.manifest: len(_content(part, i.manifest, split)) for i in bundled}
    for name, text in images.documents(bundled, sizes).items():
        with replacing_file(part / images.FOLDER / name) as stream:
            stream.write(text)
        paths.add(f"{images.FOLDER}/{name}")
    return tuple(bundled), paths


def own_size(image: ImageToSave, others: Sequence[ImageToSave]) -> int:
    """Return the bytes that an image adds to the largest image whose layers it starts with."""
    parents = [
        other.size
        for other in others
        if len(other.layers) < len(image.layers)
        and image.layers[: len(other.layers)] == other.layers
    ]
    return image.size - max(parents, default=0)


def _targets(settings: Settings) -> list[str]:
    every = [name for name in build.targets(settings.root) if name not in ("all", "default")]
    operators = settings.backend != "cpu"
    return [name for name in every if operators or name != "ops"]


def _parents(settings: Settings, client: docker.DockerClient) -> Iterator[tuple[str, str]]:
    """Yield the references of the OS and DTK images, and the names that a build looks for."""
    dockerfile = settings.root / "Dockerfile"
    reference = os_image.resolve(settings, client).reference
    bootstrapped = reference == os_image.BOOTSTRAPPED
    yield reference, reference if bootstrapped else os_image.default_reference(dockerfile)
    dtk = os_image.resolve_dtk(settings, client)
    if dtk:
        yield dtk.reference, os_image.default_reference(dockerfile, "DTK_IMAGE")


def _inspect(
    client: docker.DockerClient, reference: str, tags: Sequence[str]
) -> ImageToSave | None:
    from docker.errors import ImageNotFound

    try:
        image = client.images.get(reference)
    except ImageNotFound:
        return None
    existing = (tags[0], *(tag for tag in tags[1:] if tag in image.tags))
    layers = tuple(image.attrs["RootFS"].get("Layers") or ())
    return ImageToSave(reference, existing, str(image.id), layers, image.attrs["Size"])


def _is_saved(part: Path, image: ImageToSave, split: int) -> bool:
    return all(_blob(part, digest, split) for digest in (image.id, *image.layers))


def _entry(image: ImageToSave) -> dict[str, Any]:
    """Return the entry of a saved image in the manifest.json of ``docker save``."""
    layers = [f"blobs/sha256/{digits(layer)}" for layer in image.layers]
    config = f"blobs/sha256/{digits(image.id)}"
    return {"Config": config, "RepoTags": [_full_name(image.reference)], "Layers": layers}


def _full_name(reference: str) -> str:
    return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"


def _stream(part: Path, references: Sequence[str], split: int) -> list[dict[str, Any]]:
    """Write the blobs of ``docker save`` to the bundle, and return its manifest.json."""
    manifest: list[dict[str, Any]] = []
    with saved(references, _FAILED) as archive:
        for name, content in archive:
            blob = re.fullmatch(r"blobs/sha256/([0-9a-f]{64})", name)
            if blob:
                _write_blob(part, blob[1], content, split)
            elif name == "manifest.json":
                manifest = json.load(content)
    return manifest


def _write_blob(part: Path, digest: str, content: IO[bytes], split: int) -> None:
    path = f"{images.BLOBS}/{digest}"
    if paths_of(part, path, split):
        return
    with replacing_file(part / path, "wb") as stream:
        if digest_of(content, copy=stream)[1] != digest:
            raise MachineError(
                f"docker save wrote a blob whose content is not {digest}",
                remedy="the engine's store is damaged: build the images again",
            )


def _describe(part: Path, tags: tuple[str, ...], entry: dict[str, Any], split: int) -> Image:
    """Write the OCI manifest of an image, and return the image for the bundle's manifest."""
    names = [entry["Config"], *entry["Layers"]]
    if not all(name.startswith("blobs/sha256/") for name in names):
        raise MachineError("docker save wrote no OCI layout", where=tags[0], remedy=_ENGINE)
    config, *layers = (f"sha256:{Path(name).name}" for name in names)
    configuration = json.loads(_content(part, config, split))
    document = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": _descriptor(part, config, f"{_MEDIA}.config.v1+json", split),
        "layers": [
            _descriptor(part, layer, _layer_type(part, layer, split), split) for layer in layers
        ],
    }
    text = json.dumps(document).encode()
    digest = hashlib.sha256(text).hexdigest()
    _write_blob(part, digest, io.BytesIO(text), split)
    return Image(
        id=config,
        manifest=f"sha256:{digest}",
        tags=tags,
        diff_ids=tuple(configuration["rootfs"]["diff_ids"]),
        layers=tuple(layers),
        labels=configuration.get("config", {}).get("Labels") or {},
    )


def _descriptor(part: Path, digest: str, media_type: str, split: int) -> dict[str, Any]:
    size = sum(path.stat().st_size for path in _blob(part, digest, split))
    return {"mediaType": media_type, "digest": digest, "size": size}


def _layer_type(part: Path, digest: str, split: int) -> str:
    """Return a layer's media type; engines with containerd's store save layers compressed."""
    with _blob(part, digest, split)[0].open("rb") as stream:
        magic = stream.read(2)
    compression = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}.get(magic, "")
    return f"{_MEDIA}.layer.v1.tar{compression}"


def _content(part: Path, digest: str, split: int) -> bytes:
    return b"".join(path.read_bytes() for path in _blob(part, digest, split))


def _blob(part: Path, digest: str, split: int) -> list[Path]:
    return paths_of(part, _path(digest), split)


def _path(digest: str) -> str:
    return f"{images.BLOBS}/{digits(digest)}"

"""Take images out of the engine, into the blobs of a bundle."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from paddle_stacks import __version__, build
from paddle_stacks.build import os_image
from paddle_stacks.bundle import images
from paddle_stacks.bundle.contents import Image
from paddle_stacks.bundle.pieces import held
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.jobs.files import CHUNK, replacing_file
from paddle_stacks.plan.make import build_command, image_name
from paddle_stacks.settings import Settings

if TYPE_CHECKING:
    import docker

__all__ = ["Wanted", "find", "own_size", "save"]

_MEDIA = "application/vnd.oci.image"
_FAILED = "the engine's log says why; the same command goes on with what was saved"
_ENGINE = "the bundle needs Docker Engine 25 or newer; what loads it may be older"


@dataclass(frozen=True)
class Wanted:
    """An image to carry.

    Args:
        reference: what the engine is asked for.
        tags: what it is called on the other side.
        id: what the engine calls it.
        layers: its layers' digests.
        size: bytes, with what it shares.
    """

    reference: str
    tags: tuple[str, ...]
    id: str
    layers: tuple[str, ...]
    size: int


def find(
    chosen: Sequence[str], rebuild: bool, settings: Settings, client: docker.DockerClient
) -> list[Wanted]:
    """Return the images to carry, parents before children.

    Args:
        chosen: targets of ``docker-bake.hcl``; none for all of the backend's.
        rebuild: whether what they are built on is carried too.
        settings: the backend.
        client: of the engine that has them.

    Raises:
        RequestError: no such target.
        MachineError: an image is not built.
    """
    build.check(tuple(chosen), settings.root)
    targets = _targets(settings) if not chosen or "all" in chosen else chosen
    wanted: dict[str, tuple[str, ...]] = {}
    for target in targets:
        name = image_name(target, settings.backend)
        also = image_name(target, f"{__version__}-{settings.backend}")
        wanted[name] = (name, also)
    if rebuild:
        for found, default in _bases(settings, client):
            if "@" in found:
                raise RequestError(
                    f"{found} is named by its digest, and only a registry knows it by that",
                    where="os_image, dtk_image",
                    remedy="give it a name (docker tag), and set that",
                )
            wanted[found] = (default,)
    found_images = [_look(client, reference, tags) for reference, tags in wanted.items()]
    absent = [name for name, image in zip(wanted, found_images, strict=True) if image is None]
    if absent:
        raise MachineError(
            f"{', '.join(absent)}: not built",
            remedy=f"build first: {build_command('all', settings.backend)}",
        )
    return sorted(filter(None, found_images), key=lambda image: len(image.layers))


def save(
    part: Path, wanted: Sequence[Wanted], split: int, say: Callable[[str], None]
) -> tuple[tuple[Image, ...], set[str]]:
    """Put the images' blobs into the bundle, those that are not there yet.

    Args:
        part: the bundle's folder.
        wanted: the images, parents before children.
        split: the most bytes that a file may have in the end.
        say: told if the engine has to be asked.

    Returns:
        The images as the manifest has them, and the files that they are made of.

    Raises:
        MachineError: the engine's ``docker save`` fails, or is too old for an OCI layout.
    """
    if all(_has_image(part, image, split) for image in wanted):
        archive = [_entry(image) for image in wanted]
    else:
        say(f"images: {', '.join(image.tags[0] for image in wanted)}")
        archive = _stream(part, [image.reference for image in wanted], split)
    by_tag = {tag: entry for entry in archive for tag in entry.get("RepoTags") or ()}
    carried: list[Image] = []
    for image in wanted:
        entry = by_tag.get(_full_name(image.reference))
        if entry is None:
            raise MachineError(f"docker save did not give {image.reference}", remedy=_ENGINE)
        carried.append(_describe(part, image.tags, entry, split))
    files = {f"{images.BLOBS}/{_hex(d)}" for i in carried for d in (i.id, i.manifest, *i.layers)}
    sizes = {i.manifest: len(_content(part, i.manifest, split)) for i in carried}
    for name, text in images.documents(carried, sizes).items():
        with replacing_file(part / images.FOLDER / name) as stream:
            stream.write(text)
        files.add(f"{images.FOLDER}/{name}")
    return tuple(carried), files


def own_size(image: Wanted, others: Sequence[Wanted]) -> int:
    """Return what an image adds to the largest of those that it has the layers of."""
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


def _bases(settings: Settings, client: docker.DockerClient) -> Iterator[tuple[str, str]]:
    """Yield what the images are built on, and what a build there asks for by default."""
    dockerfile = settings.root / "Dockerfile"
    found = os_image.resolve(settings, client).reference
    bootstrapped = found == os_image.BOOTSTRAPPED
    yield found, found if bootstrapped else os_image.default_reference(dockerfile)
    dtk = os_image.resolve_dtk(settings, client)
    if dtk:
        yield dtk.reference, os_image.default_reference(dockerfile, "DTK_IMAGE")


def _look(client: docker.DockerClient, reference: str, tags: Sequence[str]) -> Wanted | None:
    from docker.errors import ImageNotFound

    try:
        found = client.images.get(reference)
    except ImageNotFound:
        return None
    kept = [tags[0], *(tag for tag in tags[1:] if tag in found.tags)]
    layers = tuple(found.attrs["RootFS"].get("Layers") or ())
    return Wanted(reference, tuple(kept), str(found.id), layers, found.attrs["Size"])


def _has_image(part: Path, image: Wanted, split: int) -> bool:
    names = (image.id, *image.layers)
    return all(_blob(part, digest, split) for digest in names)


def _entry(image: Wanted) -> dict[str, Any]:
    """Return what ``docker save`` would say of an image that was saved before."""
    layers = [f"blobs/sha256/{_hex(layer)}" for layer in image.layers]
    config = f"blobs/sha256/{_hex(image.id)}"
    return {"Config": config, "RepoTags": [_full_name(image.reference)], "Layers": layers}


def _full_name(reference: str) -> str:
    return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"


def _stream(part: Path, references: Sequence[str], split: int) -> list[dict[str, Any]]:
    """Write the blobs of ``docker save`` under their names, and return its manifest.json."""
    archive: list[dict[str, Any]] = []
    with subprocess.Popen(
        ["docker", "save", *references], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as save:
        assert save.stdout is not None and save.stderr is not None
        try:
            with tarfile.open(fileobj=save.stdout, mode="r|") as stream:
                for member in stream:
                    content = stream.extractfile(member) if member.isfile() else None
                    if content is None:
                        continue
                    blob = re.fullmatch(r"blobs/sha256/([0-9a-f]{64})", member.name)
                    if blob:
                        _keep_blob(part, blob[1], content, split)
                    elif member.name == "manifest.json":
                        archive = json.load(content)
        except tarfile.ReadError as error:
            save.kill()
            said = save.stderr.read().decode(errors="replace").strip() or str(error)
            raise MachineError(f"docker save failed: {said}", remedy=_FAILED) from error
        said = save.stderr.read().decode(errors="replace").strip()
    if save.returncode:
        raise MachineError(f"docker save failed: {said}", remedy=_FAILED)
    return archive


def _keep_blob(part: Path, digest: str, content: IO[bytes], split: int) -> None:
    path = f"{images.BLOBS}/{digest}"
    if held(part, path, split):
        return
    with replacing_file(part / path, "wb") as stream:
        found = hashlib.sha256()
        while chunk := content.read(CHUNK):
            found.update(chunk)
            stream.write(chunk)
        if found.hexdigest() != digest:
            raise MachineError(
                f"docker save gave a blob that is not {digest}",
                remedy="the engine's store is damaged: build the images again",
            )


def _describe(part: Path, tags: tuple[str, ...], entry: dict[str, Any], split: int) -> Image:
    """Return an image as the manifest has it, after writing its own OCI manifest."""
    names = [entry["Config"], *entry["Layers"]]
    if not all(name.startswith("blobs/sha256/") for name in names):
        raise MachineError("docker save gives no OCI layout", where=tags[0], remedy=_ENGINE)
    config, *layers = (f"sha256:{Path(name).name}" for name in names)
    found = json.loads(_content(part, config, split))
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
    _keep_blob(part, digest, io.BytesIO(text), split)
    return Image(
        id=config,
        manifest=f"sha256:{digest}",
        tags=tags,
        diff_ids=tuple(found["rootfs"]["diff_ids"]),
        layers=tuple(layers),
        labels=found.get("config", {}).get("Labels") or {},
    )


def _descriptor(part: Path, digest: str, media_type: str, split: int) -> dict[str, Any]:
    size = sum(piece.stat().st_size for piece in _blob(part, digest, split))
    return {"mediaType": media_type, "digest": digest, "size": size}


def _layer_type(part: Path, digest: str, split: int) -> str:
    """Return how a layer is packed: an engine with containerd's store saves it compressed."""
    with _blob(part, digest, split)[0].open("rb") as stream:
        start = stream.read(4)
    packed = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}.get(start[:2], "")
    return f"{_MEDIA}.layer.v1.tar{packed}"


def _content(part: Path, digest: str, split: int) -> bytes:
    return b"".join(piece.read_bytes() for piece in _blob(part, digest, split))


def _blob(part: Path, digest: str, split: int) -> list[Path]:
    return held(part, f"{images.BLOBS}/{_hex(digest)}", split)


def _hex(digest: str) -> str:
    return digest.partition(":")[2]

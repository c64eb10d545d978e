"""Images of a bundle: an OCI layout on the disk, and a stream for ``docker load``.

Layers are files named by their digests, so that images share them. Images are loaded one by one,
parents first, without the layers that the engine has already. After an interruption, loaded
images are not sent again.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from paddle_stacks.bundle.contents import File, Image, Manifest, digits, open_joined
from paddle_stacks.errors import JobError, MachineError

__all__ = ["BLOBS", "FOLDER", "documents", "load_all", "missing", "require_engine"]

FOLDER = "images"
BLOBS = "images/blobs/sha256"
_LAYOUT = '{"imageLayoutVersion": "1.0.0"}'


def require_engine() -> Path:
    """Return the engine's folder for images.

    Raises:
        MachineError: ``docker`` is not installed, or no engine answers.
    """
    done = _docker("info", "--format", "{{.DockerRootDir}}")
    if done.returncode:
        raise MachineError(
            f"no Docker Engine answers: {_reason(done)}",
            remedy="start Docker, and run this as root or as a member of the group docker",
        )
    return Path(done.stdout.strip())


def missing(manifest: Manifest) -> list[Image]:
    """Return the images that the engine does not have, parents before children."""
    return [image for image in manifest.images if not _id_in_engine(image)]


def load_all(folder: Path, manifest: Manifest, log: Callable[[str], None]) -> None:
    """Load the images of a bundle that the engine does not have, and tag all of them.

    Raises:
        MachineError: the engine stops, or its disk is full.
        JobError: the engine does not accept an image.
    """
    files = {Path(file.path).name: file for file in manifest.below(BLOBS)}
    present: set[tuple[str, ...]] = set()
    for image in manifest.images:
        name = _id_in_engine(image)
        if name:
            log(f"image {image.tags[0]}: already loaded")
        else:
            shared = _shared(image, present)
            layers = image.layers[shared:]
            size = sum(files[digits(layer)].size for layer in layers)
            log(f"image {image.tags[0]}: {len(layers)} layers, {size / 1e6:.1f} MB")
            name = _load(folder, files, image, shared)
        present |= {image.diff_ids[:count] for count in range(1, len(image.diff_ids) + 1)}
        for tag in image.tags:
            done = _docker("tag", name, tag)
            if done.returncode:
                raise JobError(
                    f"the image cannot be tagged {tag}: {_reason(done)}",
                    remedy="run `docker info` and `docker system df`",
                )


def documents(images: Sequence[Image], sizes: Mapping[str, int]) -> dict[str, str]:
    """Return the JSON files of an OCI layout and of an archive for ``docker load``, by name.

    Args:
        images: the images of the layout.
        sizes: bytes of each image's manifest, by digest.
    """
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.manifest,
            "size": sizes[image.manifest],
            "annotations": {
                "io.containerd.image.name": f"docker.io/{tag}",
                "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
            },
        }
        for image in images
        for tag in image.tags
    ]
    archive = [
        {
            "Config": _blob(image.id),
            "RepoTags": list(image.tags),
            "Layers": [_blob(layer) for layer in image.layers],
        }
        for image in images
    ]
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    }
    return {
        "oci-layout": _LAYOUT,
        "index.json": json.dumps(index),
        "manifest.json": json.dumps(archive),
    }


def _id_in_engine(image: Image) -> str:
    """Return the id of an image in the engine; empty if the engine does not have it.

    An engine with containerd's store identifies images by their manifests.
    """
    for name in (image.id, image.manifest):
        if _docker("image", "inspect", "--format", "{{.Id}}", name).returncode == 0:
            return name
    return ""


def _shared(image: Image, present: set[tuple[str, ...]]) -> int:
    """Return the number of the image's first layers that are in the engine as a stack."""
    counts = range(len(image.diff_ids), 0, -1)
    return next((count for count in counts if image.diff_ids[:count] in present), 0)


def _load(folder: Path, files: Mapping[str, File], image: Image, shared: int) -> str:
    """Load an image and return its id in the engine."""
    # Some engines need the layers that they have already, too.
    for skipped in dict.fromkeys((shared, 0)):
        accepted, message = _send(folder, files, image, skipped)
        name = _id_in_engine(image) if accepted else ""
        if name:
            return name
    if "no space" in message:
        raise MachineError(
            f"the engine has no space for {image.tags[0]}: {message}",
            remedy="free space on the engine's disk (docker system df), then run it again",
        )
    raise JobError(
        f"the engine does not accept {image.tags[0]}: {message}",
        remedy="read the engine's log (journalctl -u docker); the same command continues",
    )


def _send(folder: Path, files: Mapping[str, File], image: Image, skipped: int) -> tuple[bool, str]:
    """Write an image to ``docker load``; return whether it succeeded, and its last line.

    Args:
        folder: the bundle.
        files: the bundle's blobs, by digits.
        image: the image.
        skipped: the number of first layers to leave out.
    """
    blobs = [image.manifest, image.id, *dict.fromkeys(image.layers[skipped:])]
    sizes = {image.manifest: files[digits(image.manifest)].size}
    with subprocess.Popen(
        ["docker", "load", "--quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as load:
        assert load.stdin is not None and load.stdout is not None
        try:
            _write(load.stdin, folder, [files[digits(blob)] for blob in blobs], image, sizes)
            load.stdin.close()
        except BrokenPipeError:
            pass  # docker load failed; its output has the reason
        output = load.stdout.read().decode(errors="replace").strip()
    last = output.splitlines()[-1] if output else f"docker load exited with {load.returncode}"
    return load.returncode == 0, last


def _write(
    stream: IO[bytes], folder: Path, blobs: Sequence[File], image: Image, sizes: Mapping[str, int]
) -> None:
    with tarfile.open(fileobj=stream, mode="w|", bufsize=2**20) as archive:
        for file in blobs:
            member = tarfile.TarInfo(file.path.removeprefix(f"{FOLDER}/"))
            member.size = file.size
            with open_joined(folder, file.stored) as content:
                archive.addfile(member, content)
        for name, text in documents([image], sizes).items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digits(digest)}"


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MachineError(
            "the docker command is not installed", remedy="install Docker Engine 24 or newer"
        ) from error


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"docker exited with {done.returncode}"

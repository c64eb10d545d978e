"""The images of a bundle: an OCI layout on the disk, a stream for ``docker load``.

Layers are files by their digests, so that what two images share is there once. They go to
the engine image by image, parents first, without the layers that it has from the image
before: after an interruption no image is sent again.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from paddle_stacks.bundle.contents import File, Image, Manifest, open_joined
from paddle_stacks.errors import JobError, MachineError

__all__ = ["BLOBS", "FOLDER", "documents", "load_all", "missing", "require_engine"]

FOLDER = "images"
BLOBS = "images/blobs/sha256"
_LAYOUT = '{"imageLayoutVersion": "1.0.0"}'


def require_engine() -> Path:
    """Return the folder in which the engine keeps images, as the engine names it.

    Raises:
        MachineError: there is no ``docker`` command, or no engine answers it.
    """
    done = _docker("info", "--format", "{{.DockerRootDir}}")
    if done.returncode:
        raise MachineError(
            f"no Docker Engine answers: {_reason(done)}",
            remedy="start it, and be in the group docker or root",
        )
    return Path(done.stdout.strip())


def missing(manifest: Manifest) -> list[Image]:
    """Return the images that the engine has not, parents before children."""
    return [image for image in manifest.images if not _name_here(image)]


def load_all(folder: Path, manifest: Manifest, say: Callable[[str], None]) -> None:
    """Load the images of a bundle that are not in the engine, and give all their names.

    Raises:
        MachineError: the engine ends in the middle, or has no room.
        JobError: what it has afterwards is another image.
    """
    files = {Path(file.path).name: file for file in manifest.below(BLOBS)}
    present: set[tuple[str, ...]] = set()
    for image in manifest.images:
        name = _name_here(image)
        if name:
            say(f"image {image.tags[0]}: is there")
        else:
            shared = _shared(image, present)
            left = image.layers[shared:]
            size = sum(files[layer.partition(":")[2]].size for layer in left)
            say(f"image {image.tags[0]}: {len(left)} layers, {size / 1e6:.1f} MB")
            name = _load(folder, files, image, shared)
        present |= {image.diff_ids[:count] for count in range(1, len(image.diff_ids) + 1)}
        for tag in image.tags:
            _require(_docker("tag", name, tag), f"the image cannot be called {tag}")


def documents(images: Sequence[Image], sizes: Mapping[str, int]) -> dict[str, str]:
    """Return the files that make blobs an OCI layout and an archive of ``docker load``.

    Args:
        images: what the layout holds.
        sizes: the bytes of each blob, by its digest.
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


def _name_here(image: Image) -> str:
    """Return what the engine calls an image; empty where it has it not.

    An engine with containerd's store calls it by its manifest, and packs layers itself.
    """
    for name in (image.id, image.manifest):
        if _docker("image", "inspect", "--format", "{{.Id}}", name).returncode == 0:
            return name
    return ""


def _shared(image: Image, present: set[tuple[str, ...]]) -> int:
    """Return how many of the lowest layers the engine has, all on top of each other."""
    counts = range(len(image.diff_ids), 0, -1)
    return next((count for count in counts if image.diff_ids[:count] in present), 0)


def _load(folder: Path, files: Mapping[str, File], image: Image, shared: int) -> str:
    """Send an image to the engine and return what that calls it."""
    # Where the engine wants the layers that it has as well, it gets them.
    for left_out in dict.fromkeys((shared, 0)):
        taken, said = _send(folder, files, image, left_out)
        name = _name_here(image) if taken else ""
        if name:
            return name
    if "no space" in said:
        raise MachineError(
            f"the engine has no room for {image.tags[0]}: {said}",
            remedy="make room where it keeps its images (docker system df), then start again",
        )
    raise JobError(
        f"the engine does not take {image.tags[0]}: {said}",
        remedy="its own log says why; what was loaded stays, and the same command goes on",
    )


def _send(folder: Path, files: Mapping[str, File], image: Image, left_out: int) -> tuple[bool, str]:
    """Write an image into ``docker load``; return whether that took it, and its last line."""
    blobs = [image.manifest, image.id, *dict.fromkeys(image.layers[left_out:])]
    sizes = {image.manifest: files[image.manifest.partition(":")[2]].size}
    with subprocess.Popen(
        ["docker", "load", "--quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as load:
        assert load.stdin is not None and load.stdout is not None
        try:
            _write(load.stdin, folder, [files[b.partition(":")[2]] for b in blobs], image, sizes)
            load.stdin.close()
        except BrokenPipeError:
            pass  # it says why
        said = load.stdout.read().decode(errors="replace").strip()
    last = said.splitlines()[-1] if said else f"docker load ended with {load.returncode}"
    return load.returncode == 0, last


def _write(
    stream: IO[bytes], folder: Path, blobs: Sequence[File], image: Image, sizes: Mapping[str, int]
) -> None:
    with tarfile.open(fileobj=stream, mode="w|", bufsize=2**20) as archive:
        for file in blobs:
            member = tarfile.TarInfo(file.path.removeprefix(f"{FOLDER}/"))
            member.size = file.size
            with open_joined(folder, file.pieces) as content:
                archive.addfile(member, content)
        for name, text in documents([image], sizes).items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.partition(':')[2]}"


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MachineError(
            "there is no docker command", remedy="install Docker Engine 24 or newer"
        ) from error


def _require(done: subprocess.CompletedProcess[Any], what: str) -> None:
    if done.returncode:
        raise JobError(
            f"{what}: {_reason(done)}", remedy="run `docker info` and `docker system df`"
        )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"docker ended with {done.returncode}"

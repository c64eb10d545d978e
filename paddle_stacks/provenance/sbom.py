"""Lists of what is in an image: SPDX and CycloneDX by syft, and a plain manifest of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_stacks.errors import JobError, RequestError, suggest
from paddle_stacks.images import Image
from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.provenance import contents

if TYPE_CHECKING:
    import docker

__all__ = ["FORMATS", "check_formats", "write_all"]

MANIFEST = "manifest"
FORMATS = ("spdx-json", "cyclonedx-json", MANIFEST)
"""What can be asked for: two of syft's formats by its names, and our own."""


def check_formats(names: Sequence[str]) -> None:
    """Raise a RequestError for the names that are no formats."""
    for name in names:
        if name not in FORMATS:
            raise RequestError(
                f'no format is named "{name}"',
                where="--format",
                remedy=suggest(name, FORMATS, "formats"),
            )


def write_all(
    client: docker.DockerClient, images: Sequence[Image], formats: Sequence[str], folder: Path
) -> list[Path]:
    """Write the lists of images; return their files. A layer that they share is read once.

    They are named for the image's id, of which they tell.

    Args:
        client: of the engine that has the images.
        images: whose.
        formats: of :data:`FORMATS`.
        folder: which gets the files.

    Raises:
        JobError: syft failed.
        MachineError: the engine cannot save the images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = [image.id for image in images] if MANIFEST in formats else []
    found = dict(zip(ids, contents.read(client, ids), strict=True)) if ids else {}
    return [
        path for image in images for path in _write(image, formats, folder, found.get(image.id))
    ]


def _write(
    image: Image, formats: Sequence[str], folder: Path, found: contents.Contents | None
) -> list[Path]:
    head = f"{image.tags[0].rpartition('/')[2].replace(':', '-')}-{image.id[7:19]}"
    written = {name: folder / f"{head}.{name.removesuffix('-json')}.json" for name in formats}
    if found is not None:
        with replacing_file(written[MANIFEST]) as stream:
            json.dump({**found.to_json(), "reference": image.tags[0]}, stream, indent=1)
    if by_syft := {name: path for name, path in written.items() if name != MANIFEST}:
        _run_syft(image, by_syft)
    return list(written.values())


def _run_syft(image: Image, outputs: dict[str, Path]) -> None:
    folder = next(iter(outputs.values())).parent
    with tempfile.TemporaryDirectory(prefix=".syft-", dir=folder) as scratch:
        # Whole or not at all: syft writes into the folder, and each file is renamed.
        parts = {name: Path(scratch, path.name) for name, path in outputs.items()}
        line = [str(Path(sys.executable).parent / "syft"), "scan", f"docker:{image.id}", "--quiet"]
        line += ["--source-name", image.tags[0]]
        line += [f"--output={name}={path}" for name, path in parts.items()]
        # Its copy of the image is as large as the image; nothing is asked of a network.
        own = {"TMPDIR": scratch, "SYFT_CHECK_FOR_APP_UPDATE": "false"}
        done = subprocess.run(
            line, env={**os.environ, **own}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise JobError(
                f"syft failed: {last}",
                where=image.tags[0],
                remedy="it copies the image to TMPDIR, which needs room for it; then again",
            )
        for name, path in parts.items():
            path.replace(outputs[name])

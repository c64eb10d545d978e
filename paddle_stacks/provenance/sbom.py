"""Software bills of materials: SPDX and CycloneDX by syft, and the project's plain manifest."""

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
"""The supported formats: two of syft's by its names, and the project's manifest."""


def check_formats(names: Sequence[str]) -> None:
    """Raise a RequestError for unknown formats."""
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
    """Write the bills of materials of images, named after the images' ids; return the paths.

    A layer that images share is read once.

    Args:
        client: of the engine that has the images.
        images: the images.
        formats: of :data:`FORMATS`.
        folder: for the files.

    Raises:
        JobError: syft failed.
        MachineError: the engine cannot save the images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = [image.id for image in images] if MANIFEST in formats else []
    by_id = dict(zip(ids, contents.read(client, ids), strict=True)) if ids else {}
    return [
        path for image in images for path in _write(image, formats, folder, by_id.get(image.id))
    ]


def _write(
    image: Image, formats: Sequence[str], folder: Path, manifest: contents.Contents | None
) -> list[Path]:
    head = f"{image.tags[0].rpartition('/')[2].replace(':', '-')}-{image.id[7:19]}"
    paths = {name: folder / f"{head}.{name.removesuffix('-json')}.json" for name in formats}
    if manifest is not None:
        with replacing_file(paths[MANIFEST]) as stream:
            json.dump({**manifest.to_json(), "reference": image.tags[0]}, stream, indent=1)
    if by_syft := {name: path for name, path in paths.items() if name != MANIFEST}:
        _run_syft(image, by_syft)
    return list(paths.values())


def _run_syft(image: Image, outputs: dict[str, Path]) -> None:
    folder = next(iter(outputs.values())).parent
    with tempfile.TemporaryDirectory(prefix=".syft-", dir=folder) as scratch:
        # syft writes to the scratch folder, so that no partial file gets the final name.
        parts = {name: Path(scratch, path.name) for name, path in outputs.items()}
        line = [str(Path(sys.executable).parent / "syft"), "scan", f"docker:{image.id}", "--quiet"]
        line += ["--source-name", image.tags[0]]
        line += [f"--output={name}={path}" for name, path in parts.items()]
        # syft copies the image to TMPDIR, and would look for updates on the network.
        variables = {"TMPDIR": scratch, "SYFT_CHECK_FOR_APP_UPDATE": "false"}
        done = subprocess.run(
            line, env={**os.environ, **variables}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise JobError(
                f"syft failed: {last}",
                where=image.tags[0],
                remedy=f"free space in {folder}: syft copies the image there; then run it again",
            )
        for name, path in parts.items():
            path.replace(outputs[name])

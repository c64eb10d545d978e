"""Tasks about images: contents, differences, vulnerabilities and licences."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection

from paddle_stacks.cli import ROOT, task

if TYPE_CHECKING:
    import docker

    from paddle_stacks.images import Image

__all__ = ["collection"]

_HELP = {
    "backend": "The backend: a file in configs/backends/.",
    "json": "Print one JSON document.",
}
_ONE = {"image": "One image. Default: all that are built."}


@task(help={"image": "One image's layers and labels. Default: all images, a line each.", **_HELP})
def _images(
    context: Any, image: str | None = None, backend: str | None = None, json: bool = False
) -> None:
    """Show the size, layers, versions and labels of the images."""
    from paddle_stacks import images

    _, entries = _built(backend, image)
    if json:
        print(_as_json([item.to_json() for item in entries]))
    else:
        images.show(entries, details=image is not None)


@task(
    iterable=["format"],
    help={
        "format": "spdx-json, cyclonedx-json or manifest; can be repeated. Default: all three.",
        "output": "The folder for the files. Default: .cache/sbom.",
        "backend": _HELP["backend"],
        **_ONE,
    },
)
def _sbom(
    context: Any,
    format: list[str],
    image: str | None = None,
    output: str | None = None,
    backend: str | None = None,
) -> None:
    """Write the contents of the images as SPDX or CycloneDX.

    Both come from syft; a plain manifest is ours.
    """
    from paddle_stacks.provenance import sbom

    sbom.check_formats(format)
    folder = Path(output) if output else ROOT / ".cache" / "sbom"
    client, entries = _built(backend, image)
    for path in sbom.write_all(client, entries, format or sbom.FORMATS, folder):
        print(path)


@task(
    positional=["before", "after"],
    help={
        "before": "An image, such as train:cpu or any reference; or a manifest (a .json file).",
        "after": "The image or manifest to compare it with.",
        "files": "Show every file, not only the largest.",
        "json": _HELP["json"],
    },
)
def _diff(context: Any, before: str, after: str, files: bool = False, json: bool = False) -> None:
    """Compare two images.

    Packages, layers, environment, labels and files.
    """
    from paddle_stacks.provenance import compare, contents

    difference = compare.difference(*contents.open_all([before, after]))
    if json:
        print(_as_json(difference.to_json()))
    else:
        compare.show(difference, every_file=files)


@task(
    help={
        "database": "Advisories in the OSV format: a file, an archive (all.zip) or a folder."
        " Default: configs/advisories.json, which is about Python's packages only.",
        "policy": "The exceptions. Default: configs/vulnerabilities.toml.",
        "fixable": "Fail only for what has a fixed version.",
        "manifest": "A manifest written by images.sbom, instead of --image; can be repeated.",
        **_HELP,
        **_ONE,
    },
    iterable=["manifest"],
)
def _scan(
    context: Any,
    manifest: list[str],
    database: str | None = None,
    image: str | None = None,
    policy: str | None = None,
    fixable: bool = False,
    backend: str | None = None,
    json: bool = False,
) -> None:
    """Search the images for known vulnerabilities.

    The exit status is 5 if there are any, or if an exception has expired.
    """
    from paddle_stacks.provenance import advisories, contents, vulnerabilities

    if manifest:
        scanned = [contents.open_manifest(Path(name)) for name in manifest]
    else:
        client, entries = _built(backend, image)
        scanned = contents.read(client, [entry.tags[0] for entry in entries])
    path = Path(database) if database else ROOT / advisories.SNAPSHOT
    only = () if database else (advisories.ECOSYSTEM,)
    exceptions = Path(policy) if policy else ROOT / vulnerabilities.POLICY
    accepted = vulnerabilities.load_policy(exceptions)
    reports = vulnerabilities.scan(scanned, path, accepted, datetime.date.today(), only)
    if json:
        print(_as_json([report.to_json() for report in reports]))
    else:
        for report in reports:
            vulnerabilities.show(report, fixable=fixable)
    vulnerabilities.require_no_faults(reports, exceptions, fixable=fixable)


@task(help={**_HELP, **_ONE})
def _licences(
    context: Any, image: str | None = None, backend: str | None = None, json: bool = False
) -> None:
    """Show the licences of all packages in the images."""
    from paddle_stacks.provenance import licences

    client, entries = _built(backend, image)
    lists = [(item, licences.read(client, item)) for item in entries]
    if json:
        print(_as_json({item.tags[0]: [vars(row) for row in rows] for item, rows in lists}))
        return
    for item, rows in lists:
        licences.show(item, rows)


def _built(backend: str | None, image: str | None) -> tuple[docker.DockerClient, list[Image]]:
    """Return the engine's client, and the built images or the named one."""
    from paddle_stacks import engine, images, settings

    loaded = settings.load(ROOT, {"backend": backend})
    client = engine.connect()
    return client, images.inspect_all(client, loaded.backend, image)


def _as_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def collection() -> Collection:
    """Return the tasks ``images`` and ``images.…``."""
    group = Collection("images")
    group.add_task(_images, name="show", default=True)
    for name, body in (
        ("sbom", _sbom),
        ("diff", _diff),
        ("scan", _scan),
        ("licences", _licences),
    ):
        group.add_task(body, name=name)
    return group

"""What is told of the images is true: their packages, their licences, where they come from."""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from docker.models.images import Image

from paddle_stacks import images
from paddle_stacks.plan import image_name
from paddle_stacks.provenance import advisories, contents, licences, sbom, vulnerabilities
from paddle_stacks.provenance.contents import Contents
from paddle_stacks.revision import commit_seconds
from tests.support.stages import BACKEND, IMAGES, ROOT

# As images/steps/finish has it: nothing that a step of the Dockerfile wrote is younger.
DATE = "@1747699200"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def read(engine: docker.DockerClient) -> dict[str, Contents]:
    """What is in every image, by the layers."""
    names = [image_name(image, BACKEND) for image in IMAGES]
    try:
        return dict(zip(IMAGES, contents.read(engine, names), strict=True))
    except Exception as error:
        pytest.fail(f"{error}: run ./inv build", pytrace=False)


@pytest.fixture
def described(engine: docker.DockerClient, image: str) -> images.Image:
    return images.inspect_all(engine, BACKEND, image)[0]


def test_a_child_has_its_parents_layers_first(read: dict[str, Contents]) -> None:
    layers = {name: [layer.digest for layer in found.layers] for name, found in read.items()}
    for name in IMAGES:
        parent = {"base": None, "framework": "base"}.get(name, "framework")
        if parent:
            assert layers[name][: len(layers[parent])] == layers[parent], name


def test_the_layers_have_the_packages_that_the_image_names(
    read: dict[str, Contents], image: str, host: Any, python: Callable[[str], Any]
) -> None:
    line = r"dpkg-query --show --showformat '${db:Status-Status} ${Package} ${Version}\n'"
    told = [text.split() for text in host.check_output(line).splitlines()]
    debs = {(name, version) for state, name, version in told if state == "installed"}
    assert {(p.name, p.version) for p in read[image].packages if p.kind == "deb"} == debs
    if image == "base":
        return  # without a Python environment
    program = """
import importlib.metadata, json
found = importlib.metadata.distributions()
print(json.dumps([(d.metadata['Name'], d.version) for d in found if '/opt/' in str(d._path)]))
"""
    visible = {tuple(pair) for pair in python(program)}
    own = {(p.name, p.version) for p in read[image].packages if p.kind == "pypi"}
    assert visible <= own and len(visible) > 30


def test_the_files_are_those_of_the_container(
    read: dict[str, Contents], image: str, host: Any
) -> None:
    folders = ["/opt", "/usr/lib"] if image != "base" else ["/usr/lib"]
    found = host.check_output(f"find {' '.join(folders)} -type f -size +0 -printf '%p %s\n'")
    lines = (line.rpartition(" ") for line in found.splitlines())
    # A host with a DCU has its own there, which the container sees.
    mounted = "/opt/hyhal/"
    there = {(name, int(size)) for name, _, size in lines if not name.startswith(mounted)}
    by_name = read[image].files
    hard = {n: by_name[f.content].size for n, f in by_name.items() if f.kind == "hard link"}
    told = {
        (name, hard.get(name, file.size))
        for name, file in by_name.items()
        if name.startswith(tuple(f"{folder}/" for folder in folders)) and hard.get(name, file.size)
    }
    assert {pair for pair in told if not pair[0].startswith(mounted)} == there
    assert len(there) > 500


def test_every_package_is_in_the_list_of_licences(
    engine: docker.DockerClient, read: dict[str, Contents], image: str, described: images.Image
) -> None:
    found = licences.read(engine, described)
    listed = {(row.kind, row.name, row.version) for row in found if row.kind != "source"}
    there = {
        (p.kind, p.name, p.version) for p in read[image].packages if "/usr/lib/" not in p.where
    }
    assert listed == there
    assert ("paddle-stacks", "Apache-2.0") in [(row.name, row.licence) for row in found]
    texts = {text for row in found for text in row.texts}
    assert texts <= read[image].files.keys()
    assert [row.name for row in found if row.kind == "deb" and not row.texts] == []


def test_nothing_of_ours_is_younger_than_its_date(
    engine: docker.DockerClient, built: Image
) -> None:
    def younger(image: str) -> set[str]:
        line = ["docker", "run", "--rm", "--network=none", "--entrypoint=find", image, "/", "-xdev"]
        line += ["-newermt", DATE, "!", "-path", "/dev*", "!", "-path", "/proc*"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr  # what every container has of its own is young
        return set(done.stdout.splitlines())

    # A container's own, made when it is started.
    made = {"/", "/etc", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/sys"}
    os_image = built.labels["org.opencontainers.image.base.name"]
    assert younger(str(built.id)) - younger(os_image) - made == set()


def test_syft_lists_the_same_packages(
    engine: docker.DockerClient, read: dict[str, Contents], tmp_path: Path
) -> None:
    (base,) = images.inspect_all(engine, BACKEND, "base")
    paths = sbom.write_all(engine, [base], ("spdx-json", "cyclonedx-json", "manifest"), tmp_path)
    assert sorted(path.name.split(".", 1)[1] for path in tmp_path.iterdir()) == sorted(
        path.name.split(".", 1)[1] for path in paths
    )
    spdx, cyclonedx, manifest = (json.loads(path.read_text()) for path in paths)
    debs = {(p.name, p.version) for p in read["base"].packages if p.kind == "deb"}
    assert {(p["name"], p["version"]) for p in manifest["packages"] if p["kind"] == "deb"} == debs
    told = {
        (p["name"], p["versionInfo"])
        for p in spdx["packages"]
        for reference in p.get("externalRefs", [])
        if reference["referenceLocator"].startswith("pkg:deb/")
    }
    assert told == debs
    told = {
        (c["name"], c["version"])
        for c in cyclonedx["components"]
        if c.get("purl", "").startswith("pkg:deb/")
    }
    assert told == debs


def test_no_package_of_an_image_has_a_known_advisory(read: dict[str, Contents], image: str) -> None:
    policy = vulnerabilities.load_policy(ROOT / "configs" / "vulnerabilities.toml")
    database = ROOT / advisories.SNAPSHOT
    # On the day of the checkout: an old release can still be verified when exceptions expire.
    today = datetime.date.fromtimestamp(commit_seconds(ROOT))
    only = (advisories.ECOSYSTEM,)
    (report,) = vulnerabilities.scan([read[image]], database, policy, today, only)
    assert report.faults() == [], "./inv build; or ./inv lock --package NAME, or an exception"

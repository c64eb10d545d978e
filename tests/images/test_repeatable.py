"""Built again, without the cache, on another day and from another checkout: the same layers.

The engine has them already, of the build of the images that are tested. Of the long steps
only Debian's is run anew here; ``bench/reproduce.py`` builds all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from paddle_stacks import settings
from paddle_stacks.build.os_image import resolve
from paddle_stacks.build.variables import secrets
from tests.support.stages import BACKEND, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BACKEND != "cpu", reason="the stages are the same for a DCU"),
]

CONTEXT = ("Dockerfile", ".dockerignore", "configs", "entrypoints", "images", "paddle_stacks")


@pytest.fixture
def checkouts(tmp_path: Path) -> list[Path]:
    """Copies of what a build reads, with other dates and another umask."""
    made = []
    for name, days, rights in (("one", 0, 0), ("another", 100, 0o022)):
        folder = tmp_path / name / ("deep" * days)[:40]
        for entry in CONTEXT:
            (folder / entry).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / entry).is_dir() else shutil.copy2
            copy(ROOT / entry, folder / entry)
        for path in folder.rglob("*"):
            path.chmod(path.stat().st_mode | rights)
            os.utime(path, (0, path.stat().st_mtime - days * 86_400))
        made.append(folder)
    return made


@pytest.fixture
def tag(engine: docker.DockerClient) -> Iterator[str]:
    name = f"paddle-stacks-test/repeatable:{uuid.uuid4().hex[:8]}"
    yield name
    for image in engine.images.list(name.partition(":")[0]):
        for made in image.tags:
            if made.startswith(name):
                engine.images.remove(made, force=True)


@pytest.mark.parametrize(
    ("target", "again"), [("base", "--no-cache"), ("train", "--no-cache-filter=code,train")]
)
def test_the_same_layers_come_of_the_same_files(
    engine: docker.DockerClient, checkouts: list[Path], tag: str, target: str, again: str
) -> None:
    found = settings.load(ROOT)
    layers = []
    with secrets(found) as files:
        for number, folder in enumerate(checkouts):
            command = ["docker", "buildx", "build", f"--target={target}", again]
            command += [f"--build-arg=OS_IMAGE={resolve(found, engine).reference}"]
            command += [f"--secret=id=ca_bundle,src={files['CA_BUNDLE']}"]
            command += [f"--secret=id=network,src={files['NETWORK']}", f"--tag={tag}-{number}", "."]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
            layers.append(engine.images.get(f"{tag}-{number}").attrs["RootFS"]["Layers"])
    built = engine.images.get(f"paddle-stacks/{target}:{BACKEND}").attrs["RootFS"]["Layers"]
    assert layers == [built, built]
    assert len(built) > 3

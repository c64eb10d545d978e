"""`./inv build`, `docker buildx bake` and `docker compose build` give the same images."""

import os
import subprocess
from pathlib import Path

import docker
import pytest

from paddle_stacks import build, settings
from paddle_stacks.build.os_image import resolve
from paddle_stacks.build.variables import secrets, variables
from tests.support.stages import BACKEND

ROOT = Path(__file__).parents[2]
IMAGES = ("infer", "train")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BACKEND != "cpu", reason="bake's and Compose's own is the CPU"),
]


@pytest.fixture
def built():
    """What is in the images that ./inv build makes of this checkout."""
    build.build(["all"], settings.load(ROOT), quiet=True)
    return _content()


def _content():
    client = docker.from_env()
    found = {}
    for name in IMAGES:
        attributes = client.images.get(f"paddle-stacks/{name}:cpu").attrs
        config = attributes["Config"]
        # Compose adds who built it.
        labels = {k: v for k, v in config["Labels"].items() if not k.startswith("com.docker.")}
        layers = attributes["RootFS"]["Layers"]
        found[name] = {**config, "Labels": labels, "layers": layers, "at": attributes["Created"]}
    return found


def _run(*command, **environment):
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_compose_builds_the_same_images(built):
    _run("docker", "compose", "build", "infer", "finetune")
    assert _content() == built


def test_bake_builds_the_same_images(built):
    found = settings.load(ROOT)
    given = variables(found, resolve(found, docker.from_env()))
    with secrets(found) as files:
        _run("docker", "buildx", "bake", "-f", "docker-bake.hcl", **given, **files)
    assert _content() == built

"""Compose builds the very images of a simulated DCU that ./inv builds."""

from __future__ import annotations

import subprocess

import docker
import pytest

from paddle_stacks import build, settings
from tests.support.stages import BACKEND, ROOT

pytestmark = pytest.mark.skipif(BACKEND != "dcu-sim", reason="needs the images of dcu-sim")


# What the build puts there that is not in a lock; test_framework.py holds the rest to the lock.
CONTENT = (
    "find /opt/PaddleNLP /opt/paddle-stacks -type f -print0 | sort -z | xargs -0 sha256sum;"
    " ls /opt/venv/lib/python3.*/site-packages; env | sort | grep -v HOSTNAME"
)


def image(name: str) -> tuple[dict[str, str], str]:
    """Return an image's labels, and what is in it.

    Not its layers: a named context is sent anew by each client, so the steps that read it
    are run again, and the times of their files differ.
    """
    tag = f"paddle-stacks/{name}:dcu-sim"
    labels = docker.from_env().images.get(tag).labels.items()
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint=sh", tag, "-c", CONTENT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {key: v for key, v in labels if not key.startswith("com.docker.")}, done.stdout


def test_compose_builds_the_same_images() -> None:
    build.build(["all"], settings.load(ROOT), quiet=True)
    built = {name: image(name) for name in ("infer", "train")}
    files = [
        "--env-file=.env.dcu-sim",
        "--file=docker-compose.yml",
        "--file=docker-compose.dcu.yml",
    ]
    command = ["docker", "compose", *files, "build", "infer", "finetune"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, found in built.items():
        assert image(name) == found

"""What an image says of itself is true, and it is no larger than agreed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import docker
import docker.errors
import pytest
from docker.models.images import Image

from paddle_stacks import __version__
from paddle_stacks.build.os_image import BOOTSTRAPPED
from paddle_stacks.build.variables import lock_hash, paddle_version
from paddle_stacks.revision import commit_seconds, git, revision
from tests.support.locked_packages import locked
from tests.support.stages import BACKEND, PLATFORM, ROOT, instructions_of

# The largest an image may be, in MB (10**6 bytes) as `docker images` counts: what it was when
# this was written, and 3 % for Debian's updates.
BUDGET = {
    "cpu": {"base": 175, "framework": 1140, "train": 1410, "infer": 1140},
    # With the compilers of the DTK's stand-in.
    "dcu-sim": {"base": 1000, "framework": 1960, "ops": 1970, "train": 2250, "infer": 2250},
}


def test_versions_and_lock(built: Image, image: str) -> None:
    labels = built.labels
    pins = locked("framework")
    assert labels["paddle-stacks.backend"] == BACKEND
    assert labels["org.opencontainers.image.version"] == __version__
    same = labels["paddle-stacks.lock"] == lock_hash(ROOT, PLATFORM)
    assert same, "another lock: run ./inv build"
    # test_framework.py holds what is installed to the lock.
    assert labels["paddle-stacks.paddle.version"] == paddle_version(ROOT)
    assert labels["paddle-stacks.paddlenlp.version"] == pins["paddlenlp"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_revision_and_date_are_those_of_a_commit(built: Image) -> None:
    said = built.labels["org.opencontainers.image.revision"].removesuffix("-dirty")
    show = ["show", "--no-patch", "--format=%H %ct", said]
    if (ROOT / ".git").exists():
        commit, seconds = git(ROOT, *show).split() or pytest.fail(f"{said} is no commit here")
    else:  # a copy without history, which knows the one commit it is of
        commit, seconds = revision(ROOT).removesuffix("-dirty"), str(commit_seconds(ROOT))
    assert said == commit, "the images are of another revision: run ./inv build"
    date = datetime.fromtimestamp(int(seconds), timezone.utc)
    created = built.labels["org.opencontainers.image.created"]
    assert created == date.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_the_os_image_is_the_one_named(engine: docker.DockerClient, built: Image) -> None:
    name = built.labels["org.opencontainers.image.base.name"]
    digest = built.labels["org.opencontainers.image.base.digest"]
    source = built.labels["paddle-stacks.os.source"]
    assert source == ("bootstrap" if name == BOOTSTRAPPED else "registry")
    try:
        os_image = engine.images.get(name)
    except docker.errors.ImageNotFound:
        pytest.fail(f"the OS image {name} is gone: run ./inv build", pytrace=False)
    known = [found.rpartition("@")[2] for found in os_image.attrs["RepoDigests"] or []]
    assert digest in [*known, os_image.id], f"{name} is newer than the image: run ./inv build"
    assert layers(built)[: len(layers(os_image))] == layers(os_image)


def test_the_size_is_within_its_budget(built: Image, image: str) -> None:
    if BACKEND not in BUDGET:
        pytest.skip(f"nobody has measured the images for {BACKEND}")
    megabytes = built.attrs["Size"] / 1e6
    assert megabytes <= BUDGET[BACKEND][image], f"{image} has {megabytes:.0f} MB"


def layers(image: Image) -> list[Any]:
    found: list[Any] = image.attrs["RootFS"]["Layers"]
    return found


def test_the_history_has_the_steps_of_the_image_and_no_others(built: Image, image: str) -> None:
    steps = [step["CreatedBy"].partition(" ")[0] for step in reversed(built.history())]
    wanted = instructions_of(image)
    assert steps[-len(wanted) :] == wanted
    # Where it has fewer steps than layers, the engine adds one, with the time of the build.
    dates = {step["Created"] for step in built.history()[: len(wanted)]}
    told = datetime.strptime(built.labels["org.opencontainers.image.created"], "%Y-%m-%dT%H:%M:%SZ")
    assert dates == {int(told.replace(tzinfo=timezone.utc).timestamp())}

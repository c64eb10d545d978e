"""Each image is looked into from one container that runs as a plan runs one.

The folders are the Dockerfile's stages. A test in ``base/`` runs on every image
that has the stage ``base`` in it: because it starts from it (``FROM base``) or takes
its files (a mount ``from=code``). So a child inherits its parents' checks, and a new
image has them all from its first line.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import docker.errors
import pytest
import testinfra
from docker.models.containers import Container
from docker.models.images import Image

from paddle_stacks.dcu.host import Host, look
from paddle_stacks.executors.docker import container_options
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import image_name, make
from paddle_stacks.settings import Settings
from paddle_stacks.simulated.hosts import make as make_host
from tests.support.stages import BACKEND, IMAGES, PLATFORM, ROOT, is_stage, stages_in

# No entry in the image's passwd: what a cluster or a shared machine may give.
USER = "4242:4242"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the folders of stages that are in no image of this backend."""
    name = collection_path.name
    if collection_path.is_dir() and is_stage(name):
        return True if not any(name in stages_in(image) for image in IMAGES) else None
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--image", choices=IMAGES, help="leave out the tests of the other images")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say in the record which image a test is of, and leave out those of unwanted ones."""
    wanted = config.getoption("--image")
    kept, left_out = [], []
    for item in items:
        callspec = getattr(item, "callspec", None)
        image = callspec.params.get("image", "") if callspec else ""
        item.user_properties.append(("image", image))
        (left_out if wanted and image not in ("", wanted) else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses ``image`` on the images that have its folder's stage in them."""
    if "image" not in metafunc.fixturenames:
        return
    folder = metafunc.definition.path.parent
    wanted = IMAGES
    if folder != Path(__file__).parent:
        wanted = tuple(image for image in IMAGES if folder.name in stages_in(image))
        assert wanted, f"no image has a stage {folder.name}: {folder}"
    metafunc.parametrize("image", wanted, scope="session")


@dataclass(frozen=True)
class Finished:
    """What a container's command ended with."""

    status: int
    stdout: str
    stderr: str


Run = Callable[..., Finished]


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    return docker.from_env(timeout=120)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The machine, as a plan sees it: this one, or a simulated host with eight cards."""
    if BACKEND != "dcu-sim":
        return look()
    return look(make_host("ok", tmp_path_factory.mktemp("host")))


@pytest.fixture(scope="session")
def built(engine: docker.DockerClient, image: str) -> Image:
    """The image, as the engine describes it."""
    name = image_name(image, BACKEND)
    try:
        return engine.images.get(name)
    except docker.errors.ImageNotFound:
        pytest.fail(f"there is no image {name}: run ./inv build", pytrace=False)


@pytest.fixture(scope="session")
def container(
    engine: docker.DockerClient,
    image: str,
    built: Image,
    machine: Host,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Container]:
    """One container of the image for all its tests, with the rights of a plan."""
    workspace = tmp_path_factory.mktemp(image)
    plan = make(
        JOBS["finetune"],
        [],
        Settings(root=ROOT, workspace=workspace),
        PLATFORM,
        host=machine,
        user=USER,
        suffix=f"test-{image}-{uuid4().hex[:8]}",  # no run's leftover is in another's way
    )
    for mount in plan.mounts:
        if workspace in Path(mount.source).parents:
            Path(mount.source).mkdir()
            Path(mount.source).chmod(0o777)
    options = {**container_options(plan, {}), "image": built.id, "command": ["sleep", "infinity"]}
    if "code" not in stages_in(image):
        # Nothing here knows commands yet.
        options["entrypoint"] = ["/usr/bin/tini", "--"]
    started = engine.containers.create(**options)
    try:
        started.start()
        yield started
    finally:
        started.remove(force=True)


@pytest.fixture(scope="session")
def host(container: Container) -> Any:
    """The container, as testinfra sees it."""
    return testinfra.get_host(f"docker://{container.id}")


@pytest.fixture(scope="session")
def python(container: Container) -> Callable[[str], Any]:
    """``python(program)`` runs a program in the container and returns the JSON it prints."""

    def run(program: str) -> Any:
        done = subprocess.run(
            ["docker", "exec", "--interactive", str(container.id), "python3", "-"],
            input=program,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def run(built: Image) -> Run:
    """``run(command, options)`` runs the image's own entry point to its end, in a new container."""

    def run(command: Sequence[str], options: Sequence[str] = ()) -> Finished:
        words = ["docker", "run", "--rm", "--network=none", *options, str(built.id), *command]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return Finished(done.returncode, done.stdout, done.stderr)

    return run

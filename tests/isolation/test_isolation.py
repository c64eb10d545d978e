"""Try every attempt of isolation_attempts.py inside the containers of plans and Compose."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from paddle_stacks.doctor.machine import memory_mib
from paddle_stacks.errors import JobError
from paddle_stacks.executors.docker import container_options, execute
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Backend, Plan, Secret, backend, make
from paddle_stacks.settings import Settings
from tests.support.isolation_attempts import ATTEMPTS

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CPU = backend.load("cpu", ROOT)
IN_A_CONTAINER_OF_ITS_OWN = {"use all memory"}
MARKS = {name: f"mark-{uuid.uuid4().hex}" for name in ("hub token", "API key", "the caller's")}
NETWORKED = ("fetch", "fetch-data", "serve")
RUNS_ON_THE_HOST = [
    *("inv", ".venv/bin/python", ".git/hooks/pre-commit", "paddle_stacks/launch.py", "tasks.py"),
    *("configs/backends/cpu.toml", "docker-compose.override.yml.example"),
]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="it gives files to other users, which only root may"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A workspace with the probe in it."""

    folder: Path
    secrets: dict[str, Path]
    told: dict[str, Any]

    def results(self, printed: bytes) -> dict[str, tuple[bool, str]]:
        found: dict[str, tuple[bool, str]] = json.loads(printed.splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    made = docker.from_env()
    yield made
    made.close()


@pytest.fixture(scope="module")
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the machine."""
    name = f"neighbour-{uuid.uuid4().hex}"
    with subprocess.Popen([name, "600"], executable=shutil.which("sleep")) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def listener() -> Iterator[list[tuple[str, int]]]:
    """Addresses of this machine at which somebody listens."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        network = docker.from_env().networks.get("bridge").attrs["IPAM"]["Config"][0]
        yield [(network["Gateway"], port), ("127.0.0.1", port)]


@pytest.fixture(params=[1234, 0], ids=["owned-by-1234", "owned-by-root"])
def owner(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def place(
    tmp_path: Path,
    owner: int,
    client: docker.DockerClient,
    neighbour: subprocess.Popen[bytes],
    listener: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    folder, outside = tmp_path / "workspace", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    monkeypatch.setenv("HUB_TOKEN", MARKS["the caller's"])
    secrets = {}
    for name in ("hub token", "API key"):
        secrets[name] = outside / name.replace(" ", "_")
        secrets[name].write_text(MARKS[name])
        os.chown(secrets[name], owner, owner)
    (outside / "file").write_text("the machine's")
    runs = folder / "runs"
    for name in ("models", "data", "runs", "configs"):
        (folder / name).mkdir()
        os.chown(folder / name, owner, owner)
    for name in RUNS_ON_THE_HOST:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("the host's")
        # Whoever the job is, the file's permissions are not what keeps it from writing.
        for path in (folder / name, *(folder / name).parents):
            if path.is_relative_to(folder):
                os.chown(path, owner, owner)
    shutil.copy(HERE / "probe.py", runs)
    others = runs / "others"
    others.write_text("")
    _put_set_user_id_program(client, runs / "id")
    told = {
        "set_user_id": "/workspace/runs/id",
        "others_file": "/workspace/runs/others",
        "runs_on_the_host": RUNS_ON_THE_HOST,
        "process": neighbour.args[0],
        "process_id": neighbour.pid,
        "host_file": str(outside / "file"),
        "secrets": MARKS,
        "devices": [],
        "addresses": listener,
        "processes": CPU.pids + 64,
    }
    (runs / "probe.json").write_text(json.dumps(told))
    for path in (folder, runs / "probe.py", runs / "probe.json"):
        os.chown(path, owner, owner)
    for path in (others, runs / "id"):
        os.chown(path, 4321, 4321)
    (runs / "id").chmod(0o4755)
    others.chmod(0o600)
    return Place(folder, secrets, told)


def _put_set_user_id_program(client: docker.DockerClient, path: Path) -> None:
    """Copy the image's own ``id`` out of it, so that it runs in it."""
    container = client.containers.create("paddle-stacks/base:cpu")
    try:
        chunks, _ = container.get_archive("/usr/bin/id")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            program = archive.extractfile("id")
            assert program is not None
            path.write_bytes(program.read())
    finally:
        container.remove()


def plan(place: Place, job: str, platform: Backend = CPU, **changes: Any) -> Plan:
    settings = Settings(
        root=ROOT, workspace=place.folder, hub_token_file=place.secrets["hub token"]
    )
    owner = place.folder.stat().st_uid
    made = make(
        JOBS[job],
        [],
        settings,
        platform,
        user=f"{owner}:{owner}",
        suffix=uuid.uuid4().hex[:8],
        machine_mib=memory_mib(),
    )
    changed = {"argv": ("python", "runs/probe.py"), "image": made.image.replace(":dcu", ":cpu")}
    return dataclasses.replace(made, **changed | changes)


class Silent:
    """A view that shows nothing."""

    def event(self, event: object) -> None: ...

    def line(self, text: str) -> None:
        self.last = text

    def tick(self) -> None: ...

    def close(self, *, done: bool) -> None: ...


def run(place: Place, made: Plan, client: docker.DockerClient) -> dict[str, tuple[bool, str]]:
    output, view = io.BytesIO(), Silent()
    status = execute(made, client, view=view, output=output)
    assert status == 0, getattr(view, "last", "")
    return place.results(output.getvalue())


@pytest.fixture(autouse=True)
def _untouched(place: Place) -> Iterator[None]:
    yield
    for name in RUNS_ON_THE_HOST:
        assert (place.folder / name).read_text() == "the host's", name


def succeeded(found: dict[str, tuple[bool, str]]) -> dict[str, str]:
    wanted = {row.name for row in ATTEMPTS} - IN_A_CONTAINER_OF_ITS_OWN
    assert set(found) == wanted, "every row is tried, and every attempt has a row"
    return {name: said for name, (done, said) in found.items() if done}


@pytest.mark.parametrize("job", ["finetune", "infer", "fetch"])
def test_a_plan(job: str, place: Place, client: docker.DockerClient) -> None:
    found = succeeded(run(place, plan(place, job), client))
    network = found.pop("reach the network", None)
    assert (network is not None) == (job in NETWORKED)
    secrets = found.pop("read secrets of other jobs", "")
    assert secrets == ("hub token" if job == "fetch" else ""), "fetch was given this one"
    assert found == {}


def test_a_server_with_keys(place: Place, client: docker.DockerClient) -> None:
    keys = Secret("api_keys", str(place.secrets["API key"]))
    found = succeeded(run(place, plan(place, "serve", secrets=(keys,)), client))
    assert found.pop("read secrets of other jobs") == "API key"
    assert found.pop("reach the network")
    assert found == {}


@pytest.mark.parametrize("service", ["finetune", "serve", "node-0"])
def test_a_compose_service(service: str, place: Place) -> None:
    shutil.copy(ROOT / "docker-compose.yml", place.folder)
    shutil.copytree(ROOT / "configs" / "jobs", place.folder / "configs" / "jobs")
    project = f"isolation-{uuid.uuid4().hex[:8]}"
    compose = ["docker", "compose", "-p", project, "--profile", "*"]
    start = "/usr/bin/tini -- /usr/local/bin/entry python"
    words = ["run", "--rm", "--no-deps", "-T", "--entrypoint", start, service, "runs/probe.py"]
    environment = {
        **os.environ,
        "PADDLE_STACKS_HUB_TOKEN_FILE": str(place.secrets["hub token"]),
        "PADDLE_STACKS_API_KEYS_FILE": str(place.secrets["API key"]),
    }
    try:
        done = subprocess.run(
            [*compose, *words], cwd=place.folder, env=environment, capture_output=True, check=False
        )
    finally:
        subprocess.run(
            [*compose, "down", "--volumes"], cwd=place.folder, capture_output=True, check=True
        )
    assert done.returncode == 0, done.stderr.decode()
    found = succeeded(place.results(done.stdout))
    assert found.pop("read secrets of other jobs", "") == ("API key" if service == "serve" else "")
    # The network of the two nodes is internal, but the machine itself has an address in it.
    network = found.pop("reach the network", None)
    assert (network is not None) == (service == "serve")
    assert found == {}


@pytest.mark.parametrize("owner", [0], indirect=True)
@pytest.mark.parametrize("way", ["job", "root"])
def test_the_documented_profile_for_contrast(
    way: str, place: Place, client: docker.DockerClient
) -> None:
    """As a job, which the image's entry takes rights from, and as ``docker exec`` gets it.

    Without this one, a probe that can do nothing would pass.
    """
    doc = backend.load("dcu", ROOT, "doc")
    # The rights, without what only a machine with cards has, and a root may not have to give.
    doc = dataclasses.replace(doc, devices=(), folders=(), groups=(), ulimits={})
    made = plan(place, "finetune", doc)
    if way == "job":
        printed = run(place, made, client)
    else:
        options = {**container_options(made, {}), "entrypoint": ["/opt/venv/bin/python"]}
        options["command"] = ["runs/probe.py"]
        # docker-py's run() returns nothing where the log driver is "local".
        container = client.containers.create(**options)
        try:
            container.start()
            container.wait()
            printed = place.results(container.logs(stdout=True, stderr=False))
        finally:
            container.remove(force=True)
    found = succeeded(printed)
    certain = {
        row.name: getattr(row, way)
        for row in ATTEMPTS
        if getattr(row, way) is not None and row.name not in IN_A_CONTAINER_OF_ITS_OWN
    }
    assert {name: name in found for name in certain} == certain


@pytest.mark.parametrize("owner", [1234], indirect=True)
def test_memory_beyond_its_limit(place: Place, client: docker.DockerClient) -> None:
    made = plan(place, "finetune")
    assert 0 < made.memory_mib < memory_mib()
    take = "blocks = []\nwhile True: blocks.append(bytearray(b'x') * 2**24)"
    small = dataclasses.replace(made, memory_mib=256, argv=("python", "-c", take))
    with pytest.raises(JobError) as caught:
        execute(small, client, view=Silent(), output=io.BytesIO())
    assert "ran out of memory" in caught.value.problems[0].what
    with contextlib.suppress(docker.errors.NotFound):
        client.containers.get(small.name).remove(force=True)
        raise AssertionError("the container is still there")

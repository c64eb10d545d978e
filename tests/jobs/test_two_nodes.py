"""Two nodes as two containers, as Compose starts them: they train, are lost, and come again."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODES = ("node-0", "node-1")
SECONDS = 120
STEPS = 40

CONFIG = {
    "model_name_or_path": "tiny",
    "input_dir": "data/out",
    "split": "95,5,0",
    "continue_training": False,
    "device": "cpu",
    "max_seq_length": 64,
    "max_steps": STEPS,
    "learning_rate": 1e-3,
    "do_train": True,
    "do_eval": False,
    "evaluation_strategy": "no",
    "logging_steps": 1,
    "save_steps": 10,
    "seed": 42,
}

# A node that ends stays ended, and gives up waiting soon.
ONCE = """
services:
  node-0: {restart: "no"}
  node-1: {restart: "no"}
"""


def docker(*words: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout + done.stderr


class Project:
    """The services ``node-0`` and ``node-1`` with a workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"test-nodes-{uuid.uuid4().hex[:8]}"
        (folder / "docker-compose.yml").write_text((ROOT / "docker-compose.yml").read_text())
        (folder / "once.yml").write_text(ONCE)
        for name in ("configs", "data", "models", "runs"):
            (folder / name).mkdir(exist_ok=True)
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", "1234:1235", str(folder)], check=True)

    def compose(self, *words: str, files: tuple[str, ...] = (), **environment: str) -> str:
        names = ("docker-compose.yml", *files)
        chosen = [word for name in names for word in ("-f", name)]
        done = subprocess.run(
            ["docker", "compose", "-p", self.name, *chosen, "--profile", "two-nodes", *words],
            cwd=self.folder,
            env={**os.environ, "PRETRAIN_CONFIG": "two.json", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def up(self, name: str, *files: str) -> None:
        """Start both nodes on a run."""
        words = ("up", "--detach", "--no-build", *NODES)
        self.compose(*words, files=files, PRETRAIN_NAME=name)

    def container(self, node: str) -> str:
        return f"{self.name}-{node}-1"

    def said(self, node: str) -> str:
        return docker("logs", self.container(node), check=False)

    def state(self, node: str, field: str) -> str:
        return docker("inspect", "--format", f"{{{{.{field}}}}}", self.container(node)).strip()

    def kill(self, node: str) -> None:
        """Kill all processes of a node, as the kernel does; the engine starts it again."""
        user = f"{self.folder.stat().st_uid}:{self.folder.stat().st_gid}"
        words = ("exec", "--user", user, self.container(node), "sh", "-c", "kill -9 -1")
        docker(*words, check=False)

    def until(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not ready():
            assert time.monotonic() < end, "\n".join(map(self.said, NODES))
            time.sleep(0.1)

    def until_ended(self, *nodes: str) -> list[int]:
        """Wait until nodes have ended for good, and return their exit statuses."""
        self.until(lambda: all(self.state(n, "State.Status") == "exited" for n in nodes))
        return [int(self.state(n, "State.ExitCode")) for n in nodes]

    def losses(self, name: str) -> dict[int, float]:
        """Return the loss of each step of a run."""
        lines = (self.folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return {entry["step"]: entry["loss"] for entry in found if "loss" in entry}


@pytest.fixture(scope="module")
def stocked(job, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a tiny model, a corpus, and the losses of one process in ``runs/one``."""
    folder = tmp_path_factory.mktemp("nodes")
    shutil.copytree(tiny_models, folder / "models")
    (folder / "data").mkdir()
    pick = random.Random(1)
    words = ["ka", "lo", "mitu", "nesa", "rovi", "be", "do"]
    rows = [json.dumps({"text": " ".join(pick.choices(words, k=60))}) for _ in range(2000)]
    (folder / "data" / "in.jsonl").write_text("\n".join(rows))
    line = ["prepare", "--input", "data/in.jsonl", "--output", "data/out", "--model", "tiny"]
    made = job(line, folder)
    assert made.status == 0, made.stderr
    # Two sequences a step: both of one process, or one of each of two.
    for name, rows_each in (("one", 2), ("two", 1)):
        text = json.dumps({**CONFIG, "per_device_train_batch_size": rows_each})
        (folder / f"{name}.json").write_text(text)
    alone = job(["pretrain", "--config", "one.json"], folder)
    assert alone.status == 0, alone.stderr
    return folder


@pytest.fixture
def project(stocked: Path) -> Iterator[Project]:
    made = Project(stocked)
    yield made
    made.compose("down", "--timeout", "1")


def test_two_nodes_have_the_losses_of_one_process(project: Project) -> None:
    project.up("both")
    assert project.until_ended(*NODES) == [0, 0], "".join(map(project.said, NODES))
    assert "2 of 2 nodes are connected: node-0, node-1" in project.said("node-0")
    found = project.losses("both")
    assert list(found) == list(range(1, STEPS + 1))
    assert found == pytest.approx(project.losses("one"), rel=1e-5)
    for node in NODES:
        assert project.state(node, "RestartCount") == "0"
        assert "runs/both/model" in project.said(node)


def test_a_node_that_is_killed_comes_again_and_the_run_goes_on(project: Project) -> None:
    project.up("killed")
    project.until(lambda: "saved checkpoint-10" in project.said("node-0"))
    project.kill("node-1")
    assert project.until_ended(*NODES) == [0, 0], "".join(map(project.said, NODES))
    assert "because node 1 (node-1) closed its connection" in project.said("node-0")
    for node in NODES:
        assert project.state(node, "RestartCount") == "1"
        assert "resuming from runs/killed/checkpoint-" in project.said(node)
    assert project.losses("killed") == pytest.approx(project.losses("one"), rel=1e-5)


def test_a_network_that_is_cut_is_noticed_on_both_sides(project: Project) -> None:
    project.up("cut", "once.yml")
    project.until(lambda: "step 1/" in project.said("node-0"))
    docker("network", "disconnect", f"{project.name}_nodes", project.container("node-1"))
    assert project.until_ended(*NODES) == [5, 5]
    for node, other in (("node-0", "node 1 (node-1)"), ("node-1", "node 0 (node-0)")):
        assert f"because {other} sent nothing for 30 s" in project.said(node), node


def test_a_node_that_is_stopped_stops_the_other_and_nothing_is_lost(project: Project) -> None:
    project.up("stopped", "once.yml")
    project.until(lambda: "saved checkpoint-10" in project.said("node-0"))
    docker("stop", "--time", "45", project.container("node-1"))
    assert project.until_ended(*NODES) == [143, 143], "".join(map(project.said, NODES))
    assert "node 1 (node-1) received a signal to stop" in project.said("node-0")
    last = max(project.losses("stopped"))
    assert (project.folder / "runs" / "stopped" / f"checkpoint-{last}").is_dir()


def test_a_lonely_node_says_for_whom_it_waits_and_gives_up(project: Project) -> None:
    words = ["--config=two.json", "--nnodes=2", "--wait=2", "--master=node-0:29500"]
    for node, rank, waiting, end in (
        ("node-1", 1, "waiting for the master node-0", "node-0 does not resolve to an address"),
        (
            "node-0",
            0,
            "1 of 2 nodes are connected: node-0; waiting for 1",
            "the others did not connect",
        ),
    ):
        # With the name that the service has, under which the others look for it.
        line = ["run", "--rm", "--no-TTY", "--use-aliases", node, *words, f"--rank={rank}"]
        done = subprocess.run(
            ["docker", "compose", "-p", project.name, "--profile", "two-nodes", *line],
            cwd=project.folder,
            env={**os.environ, "PRETRAIN_CONFIG": "two.json"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 3, done.stderr
        assert waiting in done.stderr and end in done.stderr, done.stderr

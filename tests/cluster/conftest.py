"""A Slurm of three machines, each a container: a controller and two nodes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.slurm_cluster import ROOT, SlurmCluster, call, image

WORDS = ["kalo", "mitu", "nesa", "rovi", "bedo", "fagu", "hijo", "ka", "lo", "mi"]


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    made = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def slurm(machines: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The cluster, all of whose nodes are idle, with its programs on this machine's path."""
    machines.wait_until_idle()
    monkeypatch.setenv("PATH", machines.path)
    yield machines
    machines.end_all_jobs()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and the tokens of a text, made as a user makes them."""
    folder = tmp_path_factory.mktemp("corpus")
    shutil.copy(ROOT / "tests" / "support" / "tiny.py", folder)
    pick = random.Random(1)
    lines = (" ".join(pick.choices(WORDS, k=30)) for _ in range(2000))
    (folder / "text.txt").write_text("\n\n".join(lines))
    run = ["docker", "run", "--rm", "--network", "none", "--volume", f"{folder}:/workspace"]
    run += [image("train")]
    call([*run, "python", "tiny.py", "models", "plain"])
    prepare = ["prepare", "--input", "text.txt", "--output", "data/corpus", "--model", "plain"]
    call([*run, *prepare])
    return folder


@pytest.fixture
def workspace(machines: SlurmCluster, corpus: Path, request: pytest.FixtureRequest) -> Path:
    """A workspace that all machines share, of the user who submits, with that model and text."""
    return machines.make_workspace(request.node.name, corpus)

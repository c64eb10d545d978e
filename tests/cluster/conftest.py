"""A Slurm of three machines, each a container: a controller and two nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster


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


@pytest.fixture
def workspace(machines: SlurmCluster, request: pytest.FixtureRequest) -> Path:
    """A workspace that all machines share, of the user who submits."""
    return machines.make_workspace(request.node.name)

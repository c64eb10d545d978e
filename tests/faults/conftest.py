"""A hub, workspaces with something small for every job, and the seed of all kills."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddle_stacks.revision import revision
from paddle_stacks.settings import PREFIX
from tests.support import scenarios
from tests.support.job_containers import STARTED, hurt
from tests.support.loopback import Server, serving
from tests.support.runner import REPOSITORY as ROOT
from tests.unit.test_fetch import hub_answers

SEED_VARIABLE = PREFIX + "FAULTS_SEED"
# Of the commit: it is tried in the same way by everybody, and the next one in another way.
_SEED = int(os.environ.get(SEED_VARIABLE) or random.Random(revision(ROOT)).randrange(10**6))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """End what a test that failed has left running."""
    yield
    while STARTED:
        running = STARTED.pop()
        hurt(running)
        running.process.wait()


@pytest.fixture(scope="session")
def seed() -> int:
    """The number from which all moments of kills follow."""
    return _SEED


@pytest.fixture(scope="session")
def hub() -> Iterator[Server]:
    """A model hub on this machine's loopback, which sends its files slowly."""
    with serving() as server:
        server.pause = 0.01
        yield server


@pytest.fixture(scope="session")
def fresh(hub: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with what every job starts from; tests copy it."""
    folder = tmp_path_factory.mktemp("fresh")
    scenarios.make(folder)
    hub_answers(hub, folder / "hub")
    return folder


def pytest_report_header() -> str:
    """Say the seed first, for a run that is cut off."""
    return f"seed of the kills: {_SEED} (the same again: {SEED_VARIABLE}={_SEED})"

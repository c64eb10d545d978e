"""A hub, workspaces with something small for every job, and the account of all kills."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddle_stacks.revision import revision
from paddle_stacks.settings import PREFIX
from tests.support import scenarios
from tests.support.job_containers import STARTED, hurt
from tests.support.killing import AFTER, Account, Outcomes
from tests.support.loopback import Server, serving
from tests.support.runner import REPOSITORY as ROOT

SEED_VARIABLE = PREFIX + "FAULTS_SEED"
# Of the commit: it is tried in the same way by everybody, and the next one in another way.
_SEED = int(os.environ.get(SEED_VARIABLE) or random.Random(revision(ROOT)).randrange(10**6))
_OUTCOMES: Account = {signal.SIGKILL: {}, signal.SIGTERM: {}}


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
def outcomes() -> Account:
    """What became of the signals to each job; shown when all tests have ended."""
    return _OUTCOMES


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
    scenarios.make(folder, hub)
    return folder


def pytest_report_header() -> str:
    """Say the seed first, for a run that is cut off."""
    return f"seed of the kills: {_SEED} (the same again: {SEED_VARIABLE}={_SEED})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how many signals hit which job when, and what followed."""
    show = terminalreporter.write_line
    for by, outcomes in _OUTCOMES.items():
        if not outcomes:
            continue
        terminalreporter.section(f"{by.name}, seed {_SEED}")
        total = Outcomes()
        for name, found in outcomes.items():
            show(f"{name:<16} {found.hits:>4}: {_shown(found)}")
            total += found
        show(f"{'all':<16} {total.hits:>4}: {_shown(total)}")


def _shown(found: Outcomes) -> str:
    hit = [f"{n} {when}" for when, n in sorted(found.hit.items()) if when != AFTER]
    followed = [f"{n} {how}" for how, n in sorted(found.followed.items())]
    return f"{', '.join(hit)}; then {', '.join(followed)}; {found.hit[AFTER]} came too late"

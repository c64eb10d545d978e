"""SIGKILL and SIGTERM, when nobody chose: what was complete stays, and the rest is made."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.job_containers import run
from tests.support.killing import Chain, Outcomes, watch
from tests.support.loopback import Server
from tests.support.scenarios import SCENARIOS
from tests.support.slow_hub import reaching

_AT_ONCE = 2  # chains, as many as CI's machine has cores
WANTED = 200


def test_there_are_enough_kills() -> None:
    assert sum(scenario.kills for scenario in SCENARIOS.values()) >= WANTED


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_and_told_to_stop_at_any_moment(
    name: str,
    seed: int,
    fresh: Path,
    hub: Server,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    scenario = reaching(SCENARIOS[name], hub)
    undisturbed = watch(scenario, copied(fresh, tmp_path / "undisturbed"))
    start = copied(fresh, tmp_path / "start")
    if scenario.older:
        assert run(scenario.older, start).status == 0
    for by, times in ((signal.SIGKILL, scenario.kills), (signal.SIGTERM, scenario.stops)):
        chains = []
        for index in range(_AT_ONCE):
            folder = tmp_path / f"{by.name} {index}"
            folder.mkdir()
            chance = random.Random(f"{seed} {name} {by.name} {index}")
            chains.append(Chain(scenario, start, folder, undisturbed, chance, by))
        outcomes = Outcomes()
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda chain, n=times // _AT_ONCE: chain.run(n), chains))
        finally:
            for chain in chains:
                outcomes += chain.outcomes
            note = f"{by.name} {name:<16} {outcomes.hits:>4}, seed {seed}: {outcomes}"
            record_property("note", note)
        assert outcomes.hits >= times
        assert outcomes.containers or times < 16


def copied(fresh: Path, workspace: Path) -> Path:
    """Copy a workspace, and return where it is."""
    shutil.copytree(fresh, workspace)
    return workspace

"""SIGKILL, at moments that nobody chose: what was complete stays, and the rest is made."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from containers import run
from hubs import reaching
from killing import Chain, Outcomes, watch
from loopback import Server
from scenarios import SCENARIOS, Scenario

_AT_ONCE = 2  # chains, as many as CI's machine has cores
WANTED = 200


def test_there_are_enough_kills() -> None:
    assert sum(scenario.kills for scenario in SCENARIOS.values()) >= WANTED


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_any_moment(
    name: str, seed: int, fresh: Path, hub: Server, outcomes: dict[str, Outcomes], tmp_path: Path
) -> None:
    scenario = reaching(SCENARIOS[name], hub)
    outcomes[name] = Outcomes()
    hurt(scenario, scenario.kills, f"{seed} {name}", fresh, tmp_path, outcomes[name])
    assert outcomes[name].kills >= scenario.kills


def hurt(
    scenario: Scenario,
    times: int,
    seed: str,
    fresh: Path,
    tmp_path: Path,
    outcomes: Outcomes,
) -> None:
    """Hurt a job so often, in several chains at once, and add up what became of it."""
    undisturbed = watch(scenario, copied(fresh, tmp_path / "undisturbed"))
    start = copied(fresh, tmp_path / "start")
    if scenario.older:
        assert run(scenario.older, start).status == 0
    chains = []
    for index in range(_AT_ONCE):
        (tmp_path / str(index)).mkdir()
        chance = random.Random(f"{seed} {index}")
        chain = Chain(scenario, start, tmp_path / str(index), undisturbed, chance)
        chains.append(chain)
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda chain: chain.run(times // _AT_ONCE), chains))
    finally:
        for chain in chains:
            outcomes += chain.outcomes


def copied(fresh: Path, workspace: Path) -> Path:
    """Copy a workspace, and return where it is."""
    shutil.copytree(fresh, workspace)
    return workspace

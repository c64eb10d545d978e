"""A clock that jumps ten years forward while a job runs, and as far back before the next run."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import own_image
from tests.support.completeness import left_over
from tests.support.hold_at import GO_ON
from tests.support.job_containers import KILLED, hurt, run, start
from tests.support.loopback import Server
from tests.support.scenarios import SCENARIOS
from tests.support.slow_hub import reaching

IMAGE = "paddle-stacks-test/clock"
LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
# The time of day alone, asked for each time: what is measured from one moment to another goes
# by the monotonic clock, which does not jump on a real machine either.
CLOCK = {
    "LD_PRELOAD": LIBRARY,
    "FAKETIME_TIMESTAMP_FILE": "/workspace/clock",
    "FAKETIME_NO_CACHE": "1",
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    "NO_FAKE_STAT": "1",
}
OPTIONS = tuple(word for name, value in CLOCK.items() for word in ("-e", f"{name}={value}"))
TEN_YEARS = 10 * 365 * 24 * 3600
# The job, and the line after which its clock jumps.
JOBS = {
    "fetch": "== download",
    "prepare": "== read and make tokens",
    "finetune": "saved checkpoint-5",
    "pretrain": "saved checkpoint-5",
    "export": "== merge",
    "infer": "answers: 3/",
}


@pytest.fixture(scope="module")
def image() -> str:
    own_image.build(Path(__file__).with_name("Dockerfile"), IMAGE)
    return IMAGE


def set_clock(workspace: Path, offset: str) -> None:
    """Set a clock, at once: whoever reads it sees the time before or the time after."""
    new = workspace / "clock.new"
    new.write_text(offset + "\n")
    new.replace(workspace / "clock")


def test_the_clock_is_what_it_is_set_to(image: str, tmp_path: Path) -> None:
    line = ["python", "-c", "import time; print(time.time(), time.monotonic())"]
    found = {}
    for offset in ("+0", "+10y", "-10y"):
        set_clock(tmp_path, offset)
        done = run(line, tmp_path, *OPTIONS, image=image)
        assert done.status == 0, done.stderr
        wall, monotonic = map(float, done.stdout.split())
        found[offset] = wall - time.time()
        assert abs(monotonic - time.monotonic()) < 3600
    assert abs(found["+0"]) < 3600
    assert found["+10y"] == pytest.approx(TEN_YEARS, rel=0.01)
    assert found["-10y"] == pytest.approx(-TEN_YEARS, rel=0.01)


@pytest.mark.parametrize("name", JOBS)
def test_the_clock_jumps(image: str, name: str, fresh: Path, hub: Server, tmp_path: Path) -> None:
    scenario = reaching(SCENARIOS[name], hub)
    workspaces = [tmp_path / which for which in ("undisturbed", "jumped", "killed")]
    for workspace in workspaces:
        shutil.copytree(fresh, workspace)
        set_clock(workspace, "+0")
    undisturbed, jumped, killed = workspaces
    done = run(scenario.argv, undisturbed, *OPTIONS, image=image, environ=scenario.environ)
    assert done.status == 0, done.stderr
    wanted = scenario.complete(undisturbed)

    options: dict[str, Any] = {"image": image, "environ": scenario.environ, "hold_at": JOBS[name]}
    running = start(scenario.argv, jumped, *OPTIONS, **options)
    running.wait_for(JOBS[name])
    set_clock(jumped, "-10y")
    (jumped / GO_ON).touch()
    done = running.wait()
    assert done.status == 0, done.stderr
    assert scenario.complete(jumped) == wanted

    running = start(scenario.argv, killed, *OPTIONS, **options)
    running.wait_for(JOBS[name])
    set_clock(killed, "+10y")
    hurt(running)
    assert running.wait().status == KILLED
    set_clock(killed, "-10y")
    again = run(scenario.argv, killed, *OPTIONS, image=image, environ=scenario.environ)
    assert again.status == 0, again.stderr
    assert scenario.complete(killed) == wanted
    assert left_over(killed) == []

"""Memory that does not suffice: the kernel kills, and nothing that was complete is lost."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.completeness import left_over
from tests.support.job_containers import KILLED, run, start
from tests.support.loopback import Server
from tests.support.runner import Running
from tests.support.scenarios import SCENARIOS
from tests.support.slow_hub import reaching

JOBS = [name for name in SCENARIOS if "--force" not in name]
MIB = 2**20
SUFFICES = 1024 * MIB
# Too little for Python, for the tokenizer, for Paddle.
LIMITS = {"fetch": 24 * MIB, "prepare": 48 * MIB}
MOST = 120 * MIB
# The kernel kills what has the highest score: the job, and not what takes its memory.
FIRST_TO_GO = "--oom-score-adj=1000"
EATER = """
import pathlib
pathlib.Path("/proc/self/oom_score_adj").write_text("0")
held = []
while True:
    held.append(b"x" * 2**20)
"""
# The line of the log at which memory runs out, of the jobs that go on in the middle.
AT_WORK = {
    "finetune": "saved checkpoint-10",
    "pretrain": "saved checkpoint-10",
    "infer": "answers: 3/",
}


def limited(limit: int) -> tuple[str, ...]:
    """Return what ``docker run`` gets so that a container has so many bytes, and no swap."""
    return (f"--memory={limit}", f"--memory-swap={limit}")


def eat(running: Running) -> None:
    """Take all that a container may have, until the kernel kills the job in it."""
    command = ["docker", "exec", "--privileged", "--user=0", str(running.container)]
    subprocess.run([*command, "python", "-c", EATER], capture_output=True, check=False)


@pytest.mark.parametrize("name", JOBS)
def test_a_limit_that_does_not_suffice(name: str, fresh: Path, hub: Server, tmp_path: Path) -> None:
    scenario = reaching(SCENARIOS[name], hub)
    workspace = shutil.copytree(fresh, tmp_path / "workspace")
    limit = limited(LIMITS.get(name, MOST))
    done = run(scenario.argv, workspace, *limit, environ=scenario.environ)
    assert done.status == KILLED, done.stderr
    assert not {"model", "corpus", "adapter", "answers"} & set(scenario.complete(workspace))
    done = run(scenario.argv, workspace, *limited(SUFFICES), environ=scenario.environ)
    assert done.status == 0, done.stderr
    assert left_over(workspace) == []


@pytest.mark.parametrize("name", AT_WORK)
def test_memory_that_runs_out_at_work(name: str, fresh: Path, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    workspace = shutil.copytree(fresh, tmp_path / "undisturbed")
    assert run([*scenario.argv, *scenario.reference], workspace).status == 0
    wanted = scenario.complete(workspace)
    workspace = shutil.copytree(fresh, tmp_path / "workspace")
    options = (*limited(SUFFICES), FIRST_TO_GO)
    running = start(scenario.argv, workspace, *options, hold_at=AT_WORK[name])
    running.wait_for(AT_WORK[name])
    eat(running)
    done = running.wait()
    assert done.status == KILLED, done.stderr
    reached = scenario.progress(workspace)
    assert all(wanted[key] == found for key, found in scenario.complete(workspace).items())
    done = run(scenario.argv, workspace, *limited(SUFFICES))
    assert done.status == 0, done.stderr
    assert any(words in done.stderr for words in scenario.goes_on), done.stderr
    assert reached or name == "infer"
    found = scenario.complete(workspace)
    assert all(wanted[key] == value for key, value in found.items())
    assert {key for key in wanted if not key.startswith("checkpoint-")} <= set(found)
    assert left_over(workspace) == []

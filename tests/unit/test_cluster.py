"""What is remembered of jobs on clusters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks.errors import RequestError
from paddle_stacks.executors import cluster
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import backend, make
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
CPU = backend.load("cpu", ROOT)


def order(workspace: Path, run: str | None = "runs/try", **changes: Any) -> cluster.Order:
    settings = Settings(root=ROOT, workspace=workspace)
    arguments = changes.pop("argv", ["--config", "my.json"])
    job = changes.pop("job", "pretrain")
    plan = make(
        JOBS[job], arguments, settings, CPU, user=f"{os.geteuid()}:{os.getegid()}", suffix="x"
    )
    given = {"nodes": 2, "hours": 3, **changes}
    return cluster.Order(plan, CPU, run=Path(run) if run else None, **given)


@pytest.mark.parametrize(
    ("run", "folder"),
    [
        ("runs/try", "runs/try/cluster"),
        (None, "runs/.jobs/cluster"),
        ("elsewhere/try", "runs/.jobs/cluster"),
    ],
)
def test_a_submitted_job_is_found_again(tmp_path: Path, run: str | None, folder: str) -> None:
    given = order(tmp_path, run)
    made = cluster.Submitted.of(given, "slurm", "4711", partition="dcu")
    path = cluster.remember(given, made)
    assert path == tmp_path / folder / "slurm-4711.json"
    assert cluster.remembered(tmp_path) == [made]
    assert cluster.find("4711", tmp_path) == made


def test_a_job_of_nobody_is_told_with_those_there_are(tmp_path: Path) -> None:
    given = order(tmp_path)
    cluster.remember(given, cluster.Submitted.of(given, "slurm", "4711"))
    (tmp_path / "runs" / "try" / "cluster" / "other.json").write_text("[1]")
    with pytest.raises(RequestError) as caught:
        cluster.find("4712", tmp_path)
    assert "4711" in caught.value.problems[0].remedy

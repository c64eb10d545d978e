"""Records of jobs submitted to clusters."""

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


def spec_for(workspace: Path, run: str | None = "runs/try", **changes: Any) -> cluster.JobSpec:
    settings = Settings(root=ROOT, workspace=workspace)
    arguments = changes.pop("argv", ["--config", "my.json"])
    job = changes.pop("job", "pretrain")
    plan = make(
        JOBS[job], arguments, settings, CPU, user=f"{os.geteuid()}:{os.getegid()}", suffix="x"
    )
    values = {"nodes": 2, "hours": 3, **changes}
    return cluster.JobSpec(plan, CPU, run=Path(run) if run else None, **values)


@pytest.mark.parametrize(
    ("run", "folder"),
    [
        ("runs/try", "runs/try/cluster"),
        (None, "runs/.jobs/cluster"),
        ("elsewhere/try", "runs/.jobs/cluster"),
    ],
)
def test_a_submitted_job_is_recorded(tmp_path: Path, run: str | None, folder: str) -> None:
    spec = spec_for(tmp_path, run)
    job = cluster.SubmittedJob.of(spec, "slurm", "4711", partition="dcu")
    path = cluster.save(spec, job)
    assert path == tmp_path / folder / "slurm-4711.json"
    assert cluster.submitted_jobs(tmp_path) == [job]
    assert cluster.find("4711", tmp_path) == job


def test_an_unknown_job_is_an_error_that_lists_the_newest(tmp_path: Path) -> None:
    spec = spec_for(tmp_path)
    cluster.save(spec, cluster.SubmittedJob.of(spec, "slurm", "4711"))
    (tmp_path / "runs" / "try" / "cluster" / "other.json").write_text("[1]")
    with pytest.raises(RequestError) as caught:
        cluster.find("4712", tmp_path)
    assert "4711" in caught.value.problems[0].remedy

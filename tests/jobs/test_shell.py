"""``./inv shell`` opens a container with the image, mounts and rights of a job."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runner import PYTHON, REPOSITORY
from tests.support.workspaces import make_workspace


def test_a_shell_has_the_rights_of_its_job(tmp_path: Path) -> None:
    if PYTHON:
        pytest.skip("it takes containers")
    workspace = make_workspace(tmp_path)
    lines = (
        "touch runs/mine && echo runs",
        "touch models/mine 2>/dev/null || echo models are read only",
        "touch /usr/mine 2>/dev/null || echo so is the root",
        "exit 7",
    )
    done = subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", "shell", "finetune"],
        cwd=REPOSITORY,
        env={**os.environ, "PADDLE_STACKS_WORKSPACE": str(workspace)},
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines() == ["runs", "models are read only", "so is the root"]
    assert (workspace / "runs" / "mine").is_file()

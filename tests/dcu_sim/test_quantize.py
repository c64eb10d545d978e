"""Our calibration against PaddleSlim's, which the images for a DCU have."""

from __future__ import annotations

import json
from pathlib import Path

from test_jobs import ROOT, TRAIN, USER, docker, workspace

__all__ = ["workspace"]


def test_paddleslim_finds_the_same(workspace: Path) -> None:
    done = docker(
        *("--user", USER, "--volume", f"{ROOT}/tests/dcu_sim/slim.py:/slim.py:ro"),
        *("--volume", f"{workspace}:/workspace", TRAIN),
        *("python", "/slim.py", "models/sentencepiece"),
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    one, several = told["shift_of_one_step"], told["shift"]
    assert (len(one["middles"]), len(one["biases"])) == (8, 14)
    assert (len(several["middles"]), len(several["biases"])) == (4, 4)
    assert (len(told["smooth"]["wrapped"]), len(told["smooth"]["of_the_last"])) == (4, 8)
    for found in (one, several, told["smooth"]):
        assert max(max(differences) for differences in found.values()) < 1e-5
    assert told["weights"]["scales"] == [0.0] * 14
    assert told["weights"]["unlike_numbers"] == 0

"""Our calibration against PaddleSlim's, which the images for a DCU have."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = "paddle-stacks/train:dcu-sim"
SCRIPTS = (ROOT / "tests" / "support" / "tiny.py", ROOT / "tests" / "dcu_sim" / "slim.py")


def test_paddleslim_finds_the_same(tmp_path: Path) -> None:
    command = "python /s/tiny.py models sentencepiece && python /s/slim.py models/sentencepiece"
    line = ["docker", "run", "--rm", "--network=none", f"--volume={tmp_path}:/workspace"]
    line += [f"--volume={path}:/s/{path.name}:ro" for path in SCRIPTS]
    done = subprocess.run([*line, TRAIN, "bash", "-c", command], capture_output=True, text=True)
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

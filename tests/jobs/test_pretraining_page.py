"""docs/pretraining.md, followed as it is written: every command and every file, in order."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "pretraining.md"
BLOCK = re.compile(r"^```(sh|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_is_true(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    environment = {**os.environ, "PADDLE_STACKS_WORKSPACE": str(tmp_path)}
    said = ""
    for kind, block in BLOCK.findall(text):
        if kind == "json":
            [name] = re.findall(r"^`(\S+\.json)`, with the keys", text, re.MULTILINE)
            (tmp_path / name).write_text(block)
            continue
        for command in block.splitlines():
            done = subprocess.run(
                command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            said = done.stdout
    assert "PaddleJob" in said, "the last one rendered is for Kubernetes"
    for name, steps in (("nano", 40), ("halves", 8), ("twice", 8)):
        result = json.loads((tmp_path / "runs" / name / "result.json").read_text())
        assert result["steps"] == steps and result["last_loss"] < result["first_loss"]

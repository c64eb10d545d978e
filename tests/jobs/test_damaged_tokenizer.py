"""Tokenizers that somebody else wrote, damaged: they work, or are refused with what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

CASES = 1500
HERE = Path(__file__).parent


@pytest.mark.parametrize("kind", ["tiny", "tiny-fast", "tiny-bytes"])
def test_a_damaged_tokenizer_works_or_is_refused(job, workspace: Path, kind: str) -> None:
    shutil.copy(HERE / "damaged_tokenizers.py", workspace)
    done = job(["python", "damaged_tokenizers.py", f"models/{kind}", str(CASES)], workspace)
    assert done.status == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["worked"] > CASES / 50 and found["refused"] > CASES / 4, found


def test_a_special_token_without_end(job, workspace: Path) -> None:
    model = shutil.copytree(workspace / "models" / "tiny-fast", workspace / "models" / "long")
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unk_token": "a" * 100_000}))
    done = job(["infer", "--model", "long", "--prompt", "ka"], workspace)
    assert done.status == 2, done.stderr
    assert "a special token has 100,000 characters" in done.stderr
    assert str(path.relative_to(workspace)) in done.stderr

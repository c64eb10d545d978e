"""fetch in its container: what the unit tests cannot have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support.runner import Runner


def test_a_sentencepiece_vocabulary_gives_the_same_ids(job: Runner, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("pieces.py"), tmp_path)
    made = job(["python", "pieces.py", "make"], tmp_path)
    assert made.status == 0, made.stderr
    fetched = job(["fetch", "pieces", "--from", "pieces.gguf"], tmp_path)
    assert (fetched.status, fetched.stdout) == (0, "models/pieces\n"), fetched.stderr
    assert not [line for line in fetched.stderr.splitlines() if "WARN" in line or "rror" in line]
    compared = job(["python", "pieces.py", "compare"], tmp_path)
    assert compared.status == 0, compared.stderr
    ids = json.loads(compared.stdout.splitlines()[-1])
    assert ids["kind"] == "LlamaTokenizer"
    assert ids["found"] == ids["wanted"]

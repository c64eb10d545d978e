"""A runner of jobs, and workspaces with tiny models."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.runner import Runner
from tests.support.tiny import SYLLABLES


@pytest.fixture(scope="session")
def job() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def tiny_models(job: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny`` and ``tiny-<kind>``: random models of two layers (see tiny.py)."""
    workspace = tmp_path_factory.mktemp("tiny")
    shutil.copy(Path(tiny.__file__), workspace)
    kinds = ["sentencepiece", "plain", "deep", "bytes", "merged", "fast", "qwen2"]
    made = job(["python", "tiny.py", "models", *kinds], workspace)
    assert made.status == 0, made.stderr
    (workspace / "models" / "sentencepiece").rename(workspace / "models" / "tiny")
    for kind in kinds[1:]:
        (workspace / "models" / kind).rename(workspace / "models" / f"tiny-{kind}")
    return workspace / "models"


@pytest.fixture
def workspace(tiny_models: Path, tmp_path: Path) -> Path:
    """A workspace of its own for a test, with the tiny models and an empty data folder."""
    shutil.copytree(tiny_models, tmp_path / "models")
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.fixture(scope="session")
def small_corpus(job: Runner, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a corpus, ``small``: 600 documents of the tiny models' words."""
    workspace = tmp_path_factory.mktemp("corpus")
    shutil.copytree(tiny_models / "tiny", workspace / "models" / "tiny")
    pick = random.Random(1)
    rows = [{"text": " ".join(pick.choices(SYLLABLES, k=pick.randint(20, 80)))} for _ in range(600)]
    (workspace / "text.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    line = ["prepare", "--input", "text.jsonl", "--output", "data/small", "--model", "tiny"]
    made = job([*line, "--append-eos"], workspace)
    assert made.status == 0, made.stderr
    return workspace / "data"


@pytest.fixture(scope="session")
def smollm2(job: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with ``smollm2-135m-instruct``, for all tests that ask a model that speaks."""
    workspace = tmp_path_factory.mktemp("smollm2")
    fetched = job(["fetch", "smollm2-135m-instruct"], workspace, 600)
    assert fetched.status == 0, fetched.stderr
    return workspace

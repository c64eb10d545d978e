"""A runner of jobs, and workspaces with tiny models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner import Runner


@pytest.fixture(scope="session")
def job() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def tiny_models(job: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny`` and ``tiny-<kind>``: random models of two layers (see tiny.py)."""
    workspace = tmp_path_factory.mktemp("tiny")
    shutil.copy(Path(__file__).with_name("tiny.py"), workspace)
    kinds = ["sentencepiece", "plain", "bytes", "fast", "qwen2"]
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

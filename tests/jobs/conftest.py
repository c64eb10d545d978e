"""A runner of jobs, and workspaces with tiny models."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.made_once import copied, image_id, made_once
from tests.support.runner import PYTHON, Runner
from tests.support.tiny import SYLLABLES

KINDS = ("sentencepiece", "plain", "deep", "bytes", "merged", "fast", "qwen2")


@pytest.fixture(scope="session")
def job() -> Iterator[Runner]:
    """Run jobs in forks of warm containers."""
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def container_job() -> Iterator[Runner]:
    """Run each job in a container of its own, for what is about its start, rights or limits."""
    runner = Runner(forks=False)
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def images() -> str:
    """What the jobs' images are, as the key of what they make."""
    if PYTHON is not None:
        return PYTHON
    return " ".join(image_id(f"paddle-stacks/{image}:cpu") for image in ("train", "infer"))


@pytest.fixture(scope="session")
def tiny_models(job: Runner, images: str) -> Path:
    """A folder with ``tiny`` and ``tiny-<kind>``: random models of two layers (see tiny.py)."""

    def make(workspace: Path) -> None:
        shutil.copy(Path(tiny.__file__), workspace)
        run(job, ["python", "tiny.py", "models", *KINDS], workspace)
        (workspace / "models" / "sentencepiece").rename(workspace / "models" / "tiny")
        for kind in KINDS[1:]:
            (workspace / "models" / kind).rename(workspace / "models" / f"tiny-{kind}")

    program = Path(tiny.__file__).read_text(encoding="utf-8")
    return made("tiny", images + program, make) / "models"


@pytest.fixture
def workspace(tiny_models: Path, tmp_path: Path) -> Path:
    """A workspace of its own for a test, with the tiny models and an empty data folder."""
    shutil.copytree(tiny_models, tmp_path / "models")
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.fixture(scope="session")
def small_corpus(job: Runner, tiny_models: Path, images: str) -> Path:
    """The folder of a corpus, ``small``: 600 documents of the tiny models' words."""

    def make(workspace: Path) -> None:
        shutil.copytree(tiny_models / "tiny", workspace / "models" / "tiny")
        pick = random.Random(1)
        texts = (" ".join(pick.choices(SYLLABLES, k=pick.randint(20, 80))) for _ in range(600))
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (workspace / "text.jsonl").write_text("".join(lines))
        line = ["prepare", "--input", "text.jsonl", "--output", "data/small", "--model", "tiny"]
        run(job, [*line, "--append-eos"], workspace)

    return made("corpus", images + str(tiny_models), make) / "data"


@pytest.fixture(scope="session")
def smollm2(job: Runner, images: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with ``smollm2-135m-instruct``, for all tests that ask a model that speaks."""

    def make(workspace: Path) -> None:
        run(job, ["fetch", "smollm2-135m-instruct"], workspace, 600)

    workspace = tmp_path_factory.mktemp("smollm2")
    copied(made("smollm2", images, make) / "models", workspace / "models")
    return workspace


def made(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return what is made once, in a workspace below the folder that warm containers have."""

    def make_in_workspace(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as place:
            make(Path(place))
            shutil.copytree(place, folder, dirs_exist_ok=True)

    return made_once(name, key, make_in_workspace)


def run(job: Runner, line: list[str], workspace: Path, timeout: float = 180) -> None:
    """Run a job that must end well."""
    done = job(line, workspace, timeout)
    assert done.status == 0, done.stderr

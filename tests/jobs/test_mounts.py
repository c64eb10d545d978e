"""``./inv`` with files anywhere in the workspace, which its containers see in parts."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("inv", "tasks.py", ".git/hooks/pre-commit")


@pytest.fixture
def checkout(workspace: Path) -> Path:
    """A workspace with a tiny model, and with what runs on the host."""
    for name in CODE:
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text("the host's")
    prompts = [{"id": number, "prompt": "ka lo"} for number in range(2)]
    (workspace / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in prompts))
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "1000:1000", str(workspace)], check=True)
    return workspace


def inv(workspace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "inv"), *words],
        cwd=workspace,
        env={**os.environ, "PADDLE_STACKS_WORKSPACE": str(workspace)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_file_of_prompts_and_its_answers_in_the_root(checkout: Path) -> None:
    words = ("infer", "--model", "tiny", "--input", "in.jsonl", "--max-new-tokens", "2")
    done = inv(checkout, *words, "--output", "out.jsonl")
    assert done.returncode == 0, done.stderr
    first = (checkout / "out.jsonl").read_text()
    assert len(first.splitlines()) == 2 and not (checkout / ".output").exists()
    again = inv(checkout, *words, "--output", "out.jsonl")
    assert again.returncode == 2 and "the output exists" in again.stderr
    assert inv(checkout, *words, "--output", "out.jsonl", "--force").returncode == 0
    assert inv(checkout, *words, "--output", "answers/out.jsonl").returncode == 0
    assert (checkout / "answers" / "out.jsonl").read_text() == first
    refused = inv(checkout, *words, "--output", ".git/hooks/x")
    assert refused.returncode == 2 and "jobs cannot write" in refused.stderr
    assert all((checkout / name).read_text() == "the host's" for name in CODE)


def test_a_model_and_a_corpus_in_the_root(checkout: Path) -> None:
    text = "".join(json.dumps({"text": "ka lo mi " * 9}) + "\n" for _ in range(9))
    (checkout / "text.jsonl").write_text(text)
    words = ("--input", "text.jsonl", "--model", "tiny", "--append-eos")
    done = inv(checkout, "prepare", *words, "--output", "corpora/c")
    assert done.returncode == 0, done.stderr
    done = inv(checkout, "inspect", "corpora/c", "--plot", "lengths.png")
    assert done.returncode == 0 and (checkout / "lengths.png").is_file(), done.stderr
    done = inv(checkout, "export", "--model", "tiny", "--static", "--output", "exported")
    assert done.returncode == 0 and (checkout / "exported" / "static.pdmodel").is_file()

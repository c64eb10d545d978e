"""The export job's static graph, and the engine that runs it, on a Llama of two layers."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.jobs.test_infer import adapted, infer, ready, write_prompts

__all__ = ["adapted", "ready"]

EXPORT = ["export", "--static", "--output", "exported/m"]


def export(job, workspace: Path, *arguments: str, status: int = 0):
    done = job([*EXPORT, *arguments], workspace)
    assert done.status == status, done.stderr
    return done


@pytest.mark.parametrize("model", ["tiny", "tiny-fast"])
def test_the_static_graph_answers_as_the_dynamic_one(job, ready: Path, model: str) -> None:
    assert export(job, ready, "--model", model).stdout == "exported/m\n"
    line = ["--model", "exported/m", "--input", "in.jsonl", "--max-new-tokens", "20"]
    static, dynamic, alone = (
        infer(job, ready, *line, "--engine", engine, "--batch-size", size).stdout
        for engine, size in (("static", "4"), ("dynamic", "4"), ("static", "1"))
    )
    assert static == dynamic == alone
    base = infer(job, ready, "--model", model, *line[2:]).stdout
    assert static == base
    sampling = ["--temperature", "0.9", "--top-p", "0.9", "--seed", "3"]
    static, dynamic = (
        infer(job, ready, *line, *sampling, "--engine", engine).stdout
        for engine in ("static", "dynamic")
    )
    assert static == dynamic != base


def test_what_the_manifest_says(job, ready: Path) -> None:
    export(job, ready, "--model", "tiny")
    folder = ready / "exported" / "m"
    manifest = json.loads((folder / "static.json").read_text())
    weights = (ready / "models" / "tiny" / "model.safetensors").read_bytes()
    assert manifest["model"] == {
        "folder": "models/tiny",
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert manifest["adapter"] is None
    assert manifest["versions"]["paddlepaddle"]
    assert manifest["inputs"]["tokens"] == {"shape": [-1, -1], "dtype": "int64"}
    assert manifest["inputs"]["cache.1.keys"] == {"shape": [-1, 2, -1, 16], "dtype": "float32"}
    assert manifest["outputs"] == {"logits": {"shape": [1000, -1], "dtype": "float32"}}
    assert manifest["check"]["equal"]
    found = {path.name for path in folder.iterdir()} - {"static.json"}
    assert found == set(manifest["files"])
    for name, about in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert len(content) == about["size"]
        assert hashlib.sha256(content).hexdigest() == about["sha256"]
    # Nothing of where it was made.
    assert b"entrypoints" not in (folder / "static.pdmodel").read_bytes()


def test_an_adapter_in_a_static_graph_gives_its_answers(job, adapted: Path, tmp_path) -> None:
    for name in ("models", "runs"):
        shutil.copytree(adapted / name, tmp_path / name)
    write_prompts(tmp_path / "in.jsonl")
    line = ["--input", "in.jsonl", "--max-new-tokens", "16"]
    export(job, tmp_path, "--model", "tiny", "--adapter", "y")
    wanted = infer(job, tmp_path, "--model", "tiny", "--adapter", "y", *line).stdout
    found = infer(job, tmp_path, "--model", "exported/m", "--engine", "static", *line).stdout
    assert found == wanted
    manifest = json.loads((tmp_path / "exported" / "m" / "static.json").read_text())
    assert manifest["adapter"]["folder"] == "runs/y/adapter"


def test_a_head_that_is_the_embedding(job, ready: Path) -> None:
    """The tiny models have one of their own, on the other side of its product."""
    config = ready / "models" / "tiny" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
    export(job, ready, "--model", "tiny")
    line = ["--input", "in.jsonl", "--max-new-tokens", "12"]
    tied = infer(job, ready, "--model", "exported/m", "--engine", "static", *line).stdout
    assert tied == infer(job, ready, "--model", "tiny", *line).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "tiny-qwen2"], 'not "Qwen2ForCausalLM"'),
        (["--model", "tini"], 'did you mean "tiny"?'),
        (["--model", "tiny", "--adapter", "none"], 'no run "none"'),
        (["--model", "tiny", "--merge"], "--merge requires --adapter"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(job, ready: Path, arguments, words: str) -> None:
    refused = export(job, ready, *arguments, status=2)
    assert words in refused.stderr
    assert "start PaddlePaddle" not in refused.stderr
    assert not (ready / "exported").exists()


def test_a_damaged_model_is_not_exported(job, ready: Path) -> None:
    (ready / "models" / "tiny" / "model.safetensors").write_bytes(b"nothing")
    refused = export(job, ready, "--model", "tiny", status=2)
    assert "models/tiny/model.safetensors" in refused.stderr
    assert [path.name for path in (ready / "exported").iterdir()] == [".m.lock"]


def test_an_exported_folder_is_kept_and_told_from_a_plain_one(job, ready: Path) -> None:
    export(job, ready, "--model", "tiny")
    assert "--force replaces it" in export(job, ready, "--model", "tiny", status=2).stderr
    export(job, ready, "--model", "tiny-fast", "--force")
    line = ["--engine", "static", "--prompt", "ka?", "--model"]
    refused = infer(job, ready, *line, "tiny", status=2)
    assert "models/tiny has no static graph" in refused.stderr
    program = ready / "exported" / "m" / "static.pdmodel"
    program.write_bytes(program.read_bytes()[:-1] + b"\0")
    refused = infer(job, ready, *line, "exported/m", status=2)
    assert "its SHA-256 does not match" in refused.stderr
    assert "start PaddlePaddle" not in refused.stderr

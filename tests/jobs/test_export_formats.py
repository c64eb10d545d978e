"""Exports in other tools' formats, of a model with an adapter that was trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.jobs.test_hugging_face import END, without_end
from tests.jobs.test_infer import adapted, answers
from tests.jobs.test_parity import PARITY, SECONDS, reference_python

__all__ = ["adapted", "reference_python"]

NEW_TOKENS = 16
ASK = ["infer", "--input", "in.jsonl", "--raw", "--max-new-tokens", str(NEW_TOKENS)]


@pytest.fixture(scope="module")
def exported(job, adapted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with every export of ``tiny`` and the adapter ``y``, and the answers of ours."""
    workspace = tmp_path_factory.mktemp("exported")
    for name in ("models", "runs"):
        shutil.copytree(adapted / name, workspace / name)
    shutil.copy(adapted / "in.jsonl", workspace)
    # A chat template of PaddleNLP's own kind is lost, with a warning.
    (workspace / "models" / "tiny" / "chat_template.json").unlink(missing_ok=True)
    of_adapter = ["export", "--model", "tiny", "--adapter", "y", "--format"]
    lines = [
        *([*of_adapter, form, "--output", f"exported/{form}"] for form in FORMATS),
        ["export", "--model", "tiny", "--format", "huggingface", "--output", "exported/base"],
        ["fetch", "back", "--from", "exported/huggingface"],
        ["fetch", "from-gguf", "--from", f"exported/gguf/{GGUF}"],
        [*ASK, "--model", "tiny", "--adapter", "y", "--output", "ours.jsonl"],
        [*ASK, "--model", "back", "--output", "back.jsonl"],
        [*ASK, "--model", "from-gguf", "--output", "from-gguf.jsonl"],
        [*ASK, "--model", "exported/paddlenlp", "--output", "paddlenlp.jsonl"],
        [*ASK, "--model", "tiny", "--adapter", "exported/peft", "--output", "peft.jsonl"],
    ]
    (workspace / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shutil.copy(Path(__file__).with_name("many_jobs.py"), workspace)
    done = job(["python", "many_jobs.py", "jobs.jsonl"], workspace, 600)
    assert done.status == 0, done.stderr
    return workspace


FORMATS = ("huggingface", "gguf", "peft", "paddlenlp")
GGUF = "gguf-f32.gguf"


@pytest.mark.parametrize("name", ["back", "from-gguf", "paddlenlp", "peft"])
def test_an_export_answers_as_the_model_and_its_adapter_do(exported: Path, name: str) -> None:
    expected, actual = (
        [answer["token_ids"] for answer in answers(exported / f"{each}.jsonl")]
        for each in ("ours", name)
    )
    assert actual == expected
    assert len({tuple(each) for each in expected}) > 1


def test_round_trips_are_bit_equal(exported: Path) -> None:
    weights = {
        name: (exported / name / "model.safetensors").read_bytes()
        for name in ("exported/paddlenlp", "models/back", "models/from-gguf")
    }
    assert len(set(weights.values())) == 1


def test_the_card_has_the_run(exported: Path) -> None:
    text = (exported / "exported" / "peft" / "README.md").read_text()
    assert "| fine-tuned in the run | y |" in text
    assert "| `dataset_name_or_path` | data/small |" in text
    assert "| `steps` | 20 |" in text
    assert 'base_model: "tiny"' in text


def test_another_models_adapter_is_refused(job, exported: Path) -> None:
    line = ["export", "--model", "tiny-deep", "--adapter", "y", "--format", "peft"]
    refused = job([*line, "--output", "exported/wrong"], exported)
    assert refused.status == 2
    words = "the adapter was trained on tiny, but the weights of models/tiny-deep differ"
    assert words in refused.stderr
    assert not (exported / "exported" / "wrong").exists()


@pytest.mark.parity
def test_transformers_peft_and_llama_cpp_answer_the_same(
    exported: Path, reference_python: Path, tmp_path: Path
) -> None:
    lines = (exported / "in.jsonl").read_text().splitlines()
    request = {
        "prompts": [json.loads(line)["prompt"] for line in lines],
        "new_tokens": NEW_TOKENS,
        "gguf": str(exported / "exported" / "gguf" / GGUF),
        **{name: str(exported / "exported" / name) for name in ("huggingface", "base", "peft")},
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    done = subprocess.run(
        [reference_python, PARITY / "exports.py", tmp_path / "request.json"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    ours = answers(exported / "ours.jsonl")
    assert found["huggingface"] == found["peft"]
    # Ours leave the token out that ends an answer.
    expected = [answer["token_ids"] for answer in ours]
    assert without_end(found["huggingface"], {END}) == expected
    # llama.cpp writes the space that sentencepiece decodes at the beginning.
    assert [text.lstrip() for text in found["gguf"]] == [a["text"].lstrip() for a in ours]

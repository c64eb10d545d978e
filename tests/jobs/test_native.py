"""The native engine in the jobs infer and serve, against the dynamic engine."""

from __future__ import annotations

import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.runner import PYTHON

WORDS = ["ka", "lo", "mi", "tu", "ne", "sa", "ro", "vi", "be", "do", "fa", "gu"]


@pytest.fixture
def prompts(workspace: Path) -> Path:
    write_prompts(workspace / "in.jsonl")
    return workspace


def write_prompts(path: Path) -> None:
    lines = []
    for number in range(7):
        words = [WORDS[(number * step + step) % 12] for step in range(2 + 5 * number % 23)]
        lines.append(json.dumps({"id": f"q{number}", "prompt": " ".join([*words, "?"])}))
    path.write_text("\n".join(lines) + "\n")


def infer(job: Any, workspace: Path, *arguments: str, status: int = 0) -> Any:
    done = job(["infer", *arguments], workspace)
    assert done.status == status, done.stderr
    return done


def answered(job: Any, workspace: Path, engine: str, *arguments: str) -> list[dict[str, Any]]:
    line = ["--input", "in.jsonl", "--max-new-tokens", "16", "--engine", engine, *arguments]
    return [json.loads(each) for each in infer(job, workspace, *line).stdout.splitlines()]


@pytest.mark.parametrize("model", ["tiny", "tiny-fast", "tiny-bytes", "tiny-plain"])
def test_answers_are_those_of_the_dynamic_engine(job: Any, prompts: Path, model: str) -> None:
    expected = answered(job, prompts, "dynamic", "--model", model)
    assert answered(job, prompts, "native", "--model", model) == expected
    alone = answered(job, prompts, "native", "--model", model, "--batch-size", "1")
    assert alone == expected


def test_probabilities_are_those_of_the_dynamic_engine(job: Any, prompts: Path) -> None:
    line = ["--model", "tiny", "--logprobs", "3"]
    for native, dynamic in zip(
        answered(job, prompts, "native", *line),
        answered(job, prompts, "dynamic", *line),
        strict=True,
    ):
        assert native["token_ids"] == dynamic["token_ids"]
        for one, other in zip(native["logprobs"], dynamic["logprobs"], strict=True):
            assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-3)


def test_a_prompt_is_answered_without_paddle(job: Any, prompts: Path) -> None:
    line = ["--model", "tiny-fast", "--prompt", "ka lo mi?", "--max-new-tokens", "12"]
    done = infer(job, prompts, *line, "--engine", "native")
    assert "start PaddlePaddle" not in done.stderr
    assert done.stdout == infer(job, prompts, *line).stdout


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_benchmark_of_each_precision(job: Any, prompts: Path, precision: str) -> None:
    line = ["--model", "tiny", "--benchmark", "--batch-size", "2", "--source-length", "20"]
    line += ["--max-new-tokens", "5", "--rounds", "2", "--engine", "native"]
    result = json.loads(infer(job, prompts, *line, "--precision", precision).stdout)
    assert (result["engine"], result["precision"]) == ("native", precision)
    assert result["decode_tokens_per_second"] > 0


def test_a_model_of_another_architecture_is_refused(job: Any, prompts: Path) -> None:
    line = ["--model", "tiny-qwen2", "--prompt", "ka?", "--engine", "native"]
    refused = infer(job, prompts, *line, status=2)
    assert "the native engine does not support the architecture Qwen2ForCausalLM" in refused.stderr
    assert "--engine dynamic" in refused.stderr


def test_an_adapter_gives_the_answers_of_the_dynamic_engine(
    job: Any, tiny_models: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_models, tmp_path / "models")
    write_prompts(tmp_path / "in.jsonl")
    (tmp_path / "data" / "small").mkdir(parents=True)
    records = [{"src": f"{word} ?", "tgt": word * 3} for word in WORDS]
    (tmp_path / "data" / "small" / "train.json").write_text("\n".join(map(json.dumps, records)))
    config = {
        "model_name_or_path": "tiny",
        "dataset_name_or_path": "data/small",
        "max_steps": 20,
        "learning_rate": 0.01,
        "lora": True,
    }
    (tmp_path / "my.json").write_text(json.dumps(config))
    trained = job(["finetune", "--config", "my.json", "--name", "y"], tmp_path)
    assert trained.status == 0, trained.stderr
    line = ["--model", "tiny", "--adapter", "y"]
    expected = answered(job, tmp_path, "dynamic", *line)
    assert answered(job, tmp_path, "native", *line) == expected
    assert expected != answered(job, tmp_path, "native", "--model", "tiny")


def test_a_server_answers_as_infer(job: Any, prompts: Path) -> None:
    expected = answered(job, prompts, "native", "--model", "tiny")
    where = ["--port", "0"] if PYTHON else ["--published"]
    running = job.start(["serve", *where, "--model", "tiny", "--engine", "native"], prompts)
    try:
        url = running.url() + "/v1/chat/completions"
        entries = [json.loads(line) for line in (prompts / "in.jsonl").read_text().splitlines()]

        def ask(entry: dict[str, Any]) -> str:
            messages = [{"role": "user", "content": entry["prompt"]}]
            fields = {"messages": messages, "max_tokens": 16, "temperature": 0}
            with httpx.Client(timeout=180, trust_env=False) as client:
                response = client.post(url, json={"model": "tiny", **fields})
            assert response.status_code == 200, response.text
            text: str = response.json()["choices"][0]["message"]["content"]
            return text

        with ThreadPoolExecutor(len(entries)) as pool:
            texts = list(pool.map(ask, entries))
    finally:
        running.send(signal.SIGTERM)
        done = running.wait()
    assert texts == [answer["text"] for answer in expected]
    assert done.status == 0, done.stderr

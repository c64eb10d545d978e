"""Clients that people use, unchanged and pinned, against the server on the fake model."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import client_environments
from tests.support.fake_model import BEGIN, FakeNetwork, FakeTokenizer
from tests.support.served import Served, serving

HERE = Path(__file__).parent
SECONDS = 300  # for what takes less than a minute, the making of its environment aside
# A client that looks for a hub, a proxy or a newer version of itself finds none.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "DO_NOT_TRACK": "1",
    "NO_PROXY": "*",
    "OPENAI_API_KEY": "none",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving() as made:
        yield made
        failed = [line for line in made.log() if line["status"] >= 500]
        assert not failed


def run(*command: object, folder: Path | None = None, home: Path | None = None) -> str:
    """Run a client and return its standard output."""
    environment = {**os.environ, **ENVIRONMENT}
    if home is not None:
        environment |= {"HOME": str(home), "HF_HOME": str(home / "hub")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def run_python(name: str, program: str, url: str) -> dict[str, Any]:
    interpreter = client_environments.python(name)
    out = run(interpreter, HERE / "programs" / program, url)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def run_node(program: str, url: str) -> dict[str, Any]:
    folder = client_environments.node_modules()
    # Node looks for packages beside the program.
    copy = folder / program
    shutil.copy(HERE / "programs" / program, copy)
    found: dict[str, Any] = json.loads(run("node", copy, url).splitlines()[-1])
    return found


def greedy(served: Served, *contents: str) -> str:
    """Return the answer to a conversation in which the user speaks first and last."""
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": content} for at, content in enumerate(contents)]
    body = {"model": "fake", "messages": messages, "temperature": 0}
    answer = served.post("/v1/chat/completions", body)
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


@pytest.fixture(scope="module")
def answers(server: Served) -> tuple[str, str]:
    first = greedy(server, "Name a fruit.")
    return first, greedy(server, "Name a fruit.", first, "Another one.")


def test_openai_python(server: Served, answers: tuple[str, str]) -> None:
    found = run_python("openai", "openai_client.py", server.url + "/v1")
    first, second = answers
    assert found["first"] == found["final"] == first
    assert found["turns"] == dict.fromkeys(("object", "dump", "dict"), second)
    assert "no Responses API" in found["responses"]
    assert found["too_long"] == "context_length_exceeded"
    assert found["echo"][0] is None and found["echo"][1] < 0


def test_langchain(server: Served, answers: tuple[str, str]) -> None:
    found = run_python("langchain", "langchain_client.py", server.url + "/v1")
    assert found["whole"] == found["streamed"] == answers[0]
    assert found["second"] == greedy(server, "Name a fruit.", found["first"], "Another one.")
    assert found["tokens"] == len(found["first"].encode())
    assert found["batch"] == [greedy(server, text) for text in "abc"]
    assert len(found["text"].encode()) == 5


def test_litellm(server: Served, answers: tuple[str, str]) -> None:
    found = run_python("litellm", "litellm_client.py", server.url + "/v1")
    assert (found["first"], found["second"]) == answers
    assert found["streamed"] == answers[0] and len(found["text"].encode()) == 5
    assert found["error"] == "ContextWindowExceededError"


def test_openai_node(server: Served, answers: tuple[str, str]) -> None:
    found = run_node("openai_client.mjs", server.url + "/v1")
    assert (found["first"], found["second"]) == answers
    assert found["streamed"] == found["helper"] == answers[0]
    # Pieces that had arrived already are still told.
    assert found["aborted"] == "APIUserAbortError" and found["pieces"] < 1000
    assert found["usage"]["completion_tokens"] == len(answers[0].encode())
    assert 'did you mean "temperature"?' in found["misspelt"]
    assert found["models"] == ["fake"]


def test_the_ai_sdk(server: Served, answers: tuple[str, str]) -> None:
    found = run_node("ai_sdk.mjs", server.url + "/v1")
    for name in ("compatible", "openai"):
        one = found[name]
        assert (one["first"], one["second"], one["streamed"]) == (*answers, answers[0])
        assert (one["tokens"], one["reason"]) == (len(answers[0].encode()), "stop")
    assert "no Responses API" in found["responses"]


# ------------------------------------------------------------------------ lm-evaluation-harness


TASKS = [
    json.loads(line) for line in (HERE / "lm_eval_tasks" / "caps.jsonl").read_text().splitlines()
]


def logprob(text: str, prefix: list[int]) -> float:
    """Return the log probability of a text behind some tokens."""
    tokens = [*prefix, *FakeTokenizer()(text)["input_ids"]]
    total = 0.0
    for at in range(len(prefix), len(tokens)):
        logits = FakeNetwork().logits(tuple(tokens[:at])).astype(np.float64)
        total += float(logits[tokens[at]] - np.log(np.exp(logits).sum()))
    return total


def test_lm_evaluation_harness(server: Served, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    shutil.copytree(HERE / "lm_eval_tasks", tasks)
    arguments = {
        "model": "fake",
        "base_url": f"{server.url}/v1/completions",
        "tokenizer_backend": "remote",
        "max_length": 2048,
        "num_concurrent": 2,
    }
    interpreter = client_environments.python("lm-eval")
    run(
        *(interpreter, "-m", "lm_eval", "--model", "local-completions"),
        *("--tasks", "tiny_mc,tiny_ppl,tiny_gen", "--include_path", tasks),
        *("--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())),
        *("--output_path", tmp_path / "out", "--log_samples"),
        folder=tasks,
        home=tmp_path,
    )
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text())["results"]

    right = 0
    for task in TASKS:
        context = FakeTokenizer()(task["q"])["input_ids"]
        scores = [logprob(choice, context) for choice in task["a"]]
        right += int(np.argmax(scores)) == task["gold"]
    assert results["tiny_mc"]["acc,none"] == pytest.approx(right / len(TASKS))

    total = sum(logprob(task["q"], [BEGIN]) for task in TASKS)
    words = sum(len(re.split(r"\s+", task["q"])) for task in TASKS)
    perplexity = math.exp(-total / words)
    assert results["tiny_ppl"]["word_perplexity,none"] == pytest.approx(perplexity, rel=1e-3)

    (path,) = (tmp_path / "out").rglob("samples_tiny_gen_*.jsonl")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(samples) == len(TASKS)
    for sample in samples:
        body = {
            "model": "fake",
            "prompt": sample["doc"]["q"],
            "max_tokens": 8,
            "temperature": 0,
            "stop": ["\n", "."],
        }
        wanted = server.post("/v1/completions", body).json()["choices"][0]["text"]
        assert sample["resps"] == [[wanted]]


# ------------------------------------------------------------------------ guidellm


def test_guidellm(server: Served, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(4)))
    interpreter = client_environments.python("guidellm")
    run(
        *(interpreter.with_name("guidellm"), "benchmark", "run"),
        *("--target", server.url, "--model", "fake", "--data", prompts),
        *("--rate-type", "concurrent", "--rate", "2", "--max-requests", "6"),
        *("--output-path", tmp_path / "report.json", "--disable-progress"),
        folder=tmp_path,
        home=tmp_path,
    )
    (benchmark,) = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
    totals = benchmark["run_stats"]["requests_made"]
    assert (totals["successful"], totals["errored"]) == (6, 0)

"""The server in a real container, on real models, by OpenAI's own client."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.runner import PYTHON, REPOSITORY, Runner, Running

CHATS = "/v1/chat/completions"


@contextlib.contextmanager
def served(job: Runner, workspace: Path, *arguments: str) -> Iterator[tuple[Running, str]]:
    where = ["--port", "0"] if PYTHON else ["--published"]
    running = job.start(["serve", *where, *arguments], workspace)
    try:
        yield running, running.url()
    finally:
        if running.process.poll() is None:
            running.send(signal.SIGKILL)
        running.process.wait()


def client_of(url: str, key: str = "none") -> openai.OpenAI:
    http = httpx.Client(trust_env=False, timeout=180)
    return openai.OpenAI(base_url=url + "/v1", api_key=key, http_client=http, max_retries=0)


def end(running: Running) -> None:
    """Stop a server, and check that it had nothing to complain of."""
    running.send(signal.SIGTERM)
    done = running.wait()
    assert done.status == 0, done.stderr
    assert not any(word in done.stderr for word in ("WARNING", "ERROR", "Traceback")), done.stderr
    assert done.stdout == ""


def infer(job: Runner, workspace: Path, *arguments: str) -> list[dict[str, Any]]:
    done = job(["infer", *arguments], workspace)
    assert done.status == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ask(url: str, **fields: Any) -> dict[str, Any]:
    with httpx.Client(timeout=180, trust_env=False) as client:
        answer = client.post(url + CHATS, json=fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["choices"][0]
    return found


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


QUESTIONS = [
    "ka lo mi?",
    "tu " * 100 + "?",
    "ne sa ro vi be do fa gu",
    "mi",
    "ka " * 37,
    "be do " * 60,
    "vi vi vi?",
    "sa " * 12,
]


@pytest.mark.parametrize("model", ["tiny", "tiny-fast", "tiny-bytes", "tiny-qwen2"])
def test_an_answer_is_what_infer_gives_whoever_else_is_there(job, workspace, model: str) -> None:
    lines = [json.dumps({"id": n, "prompt": text}) for n, text in enumerate(QUESTIONS)]
    (workspace / "in.jsonl").write_text("\n".join(lines))
    line = ["--model", model, "--input", "in.jsonl", "--max-new-tokens", "40", "--batch-size", "1"]
    wanted = infer(job, workspace, *line)
    with served(job, workspace, "--model", model, "--batch-size", "4") as (running, url):

        def answer(number: int) -> dict[str, Any]:
            messages = user(QUESTIONS[number])
            return ask(url, model=model, messages=messages, temperature=0, max_tokens=40)

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(answer, [*range(8), *range(7, -1, -1)]))
        end(running)
    for number, choice in zip([*range(8), *range(7, -1, -1)], found, strict=True):
        assert choice["message"]["content"] == wanted[number]["text"]
        assert choice["finish_reason"] == wanted[number]["finish_reason"]


def test_a_seed_makes_the_text_that_it_makes_in_infer(job, workspace: Path) -> None:
    line = ["--prompt", "ka lo?", "--seed", "7", "--temperature", "0.9", "--top-k", "50"]
    line += ["--max-new-tokens", "24"]
    done = job(["infer", "--model", "tiny", *line], workspace)
    with served(job, workspace, "--model", "tiny") as (running, url):
        asked = {"model": "tiny", "messages": user("ka lo?"), "seed": 7, "max_tokens": 24}
        asked |= {"temperature": 0.9, "top_k": 50}
        assert ask(url, **asked)["message"]["content"] + "\n" == done.stdout
        end(running)


def test_a_completion_is_what_infer_makes_of_a_raw_prompt(job, workspace: Path) -> None:
    line = ["--prompt", "ka lo mi tu", "--raw", "--max-new-tokens", "20"]
    for model in ("tiny", "tiny-bytes"):
        done = job(["infer", "--model", model, *line], workspace)
        with served(job, workspace, "--model", model) as (running, url):
            found = client_of(url).completions.create(
                model=model, prompt="ka lo mi tu", max_tokens=20, temperature=0
            )
            assert found.choices[0].text + "\n" == done.stdout
            end(running)


def test_a_long_prompt_is_read_in_parts_and_to_the_same_end(job, workspace: Path) -> None:
    text = "ka lo mi tu ne sa " * 9
    wanted = job(
        ["infer", "--model", "tiny-fast", "--prompt", text, "--max-new-tokens", "30"], workspace
    ).stdout
    line = ["--model", "tiny-fast", "--prefill-tokens", "16"]
    with served(job, workspace, *line) as (running, url):
        asked = {"model": "tiny-fast", "temperature": 0, "max_tokens": 30}
        with ThreadPoolExecutor(3) as pool:
            others = [
                pool.submit(ask, url, **asked, messages=user(short)) for short in ("ka?", "lo mi?")
            ]
            found = ask(url, **asked, messages=user(text))
            assert all(other.result() for other in others)
        assert found["message"]["content"] + "\n" == wanted
        end(running)


def test_several_answers_and_probabilities_of_a_real_model(job, workspace: Path) -> None:
    with served(job, workspace, "--model", "tiny-fast", "--served-model-name", "mine") as (
        running,
        url,
    ):
        client = client_of(url)
        found = client.chat.completions.create(
            model="mine",
            messages=[{"role": "user", "content": "ka lo?"}],
            n=3,
            seed=1,
            max_tokens=12,
            logprobs=True,
            top_logprobs=3,
        )
        assert [choice.index for choice in found.choices] == [0, 1, 2]
        assert len({choice.message.content for choice in found.choices}) == 3
        for choice in found.choices:
            assert choice.logprobs is not None and choice.logprobs.content is not None
            for entry in choice.logprobs.content:
                assert entry.logprob <= 0
                likely = [other.logprob for other in entry.top_logprobs]
                assert likely == sorted(likely, reverse=True) and len(likely) == 3
        assert found.usage is not None and found.usage.completion_tokens <= 36
        end(running)


def post(url: str, path: str, **fields: Any) -> dict[str, Any]:
    with httpx.Client(timeout=180, trust_env=False) as client:
        answer = client.post(url + path, json=fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("model", ["tiny", "tiny-fast", "tiny-qwen2"])
def test_an_echo_has_the_logprobs_of_the_tokens_one_by_one(job, workspace, model: str) -> None:
    line = ["--model", model, "--prefill-tokens", "16"]
    with served(job, workspace, *line) as (running, url):
        running.wait_for("serving")
        tokens = post(url, "/tokenize", prompt="ka lo mi tu ne sa " * 4)["tokens"]
        asked = {"model": model, "temperature": 0}
        echo = post(
            url, "/v1/completions", **asked, prompt=tokens, max_tokens=1, echo=True, logprobs=3
        )["choices"][0]["logprobs"]
        assert len(echo["tokens"]) == len(tokens) + 1
        for at in (1, 2, 15, 16, 17, len(tokens)):
            alone = post(
                url, "/v1/completions", **asked, prompt=tokens[:at], max_tokens=1, logprobs=3
            )["choices"][0]["logprobs"]
            if not alone["top_logprobs"]:  # an end token, which is no token of the answer
                continue
            assert sorted(echo["top_logprobs"][at].values()) == pytest.approx(
                sorted(alone["top_logprobs"][0].values()), abs=1e-3
            )
        end(running)


def test_what_a_template_does_not_take_is_refused(job, workspace: Path) -> None:
    twice = [*user("ka?"), *user("lo?")]
    for model, messages, words in (
        ("tiny", twice, "alternating user and assistant"),
        ("tiny", [{"role": "system", "content": "x"}, *user("ka?")], "fixed system message"),
    ):
        with served(job, workspace, "--model", model) as (running, url):
            with pytest.raises(openai.BadRequestError, match=words):
                client_of(url).chat.completions.create(model=model, messages=messages)
            ask(url, model=model, messages=user("ka?"), max_tokens=2)
            end(running)


def test_a_model_without_a_template_completes_and_does_not_chat(job, workspace: Path) -> None:
    with served(job, workspace, "--model", "tiny-plain") as (running, url):
        client = client_of(url)
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            client.chat.completions.create(model="tiny-plain", messages=user("ka?"))
        made = client.completions.create(model="tiny-plain", prompt="ka?", max_tokens=2)
        assert made.usage.completion_tokens == 2
        end(running)


def test_without_keys_other_containers_are_refused(job, workspace: Path) -> None:
    if PYTHON:
        pytest.skip("it takes containers")
    with served(job, workspace, "--model", "tiny") as (running, url):
        address = subprocess.run(
            ["docker", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", running.container],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        code = (
            "import sys, urllib.request as u, urllib.error as e\n"
            "request = u.Request(sys.argv[1], headers={'Host': 'localhost'})\n"
            "try: print(u.urlopen(request, timeout=20).status)\n"
            "except e.HTTPError as error: print(error.code)"
        )
        line = ["docker", "run", "--rm", "paddle-stacks/infer:cpu", "python", "-c", code]
        done = subprocess.run(
            [*line, f"http://{address}:8000/v1/models"], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "403"
        assert httpx.get(url + "/v1/models", trust_env=False).status_code == 200
        end(running)


def test_keys_come_from_a_file(job, workspace: Path) -> None:
    (workspace / "keys").write_text("me sk-0123456789abcdef\n")
    with served(job, workspace, "--model", "tiny", "--api-keys", "keys") as (running, url):
        with pytest.raises(openai.AuthenticationError):
            client_of(url, "sk-something-else-entirely").models.list()
        assert client_of(url, "sk-0123456789abcdef").models.list().data[0].id == "tiny"
        end(running)


def test_a_model_folder_that_goes_away_is_missed_by_nobody(job, workspace: Path) -> None:
    with served(job, workspace, "--model", "tiny") as (running, url):
        asked = {"model": "tiny", "messages": user("ka lo?"), "temperature": 0, "max_tokens": 20}
        before = ask(url, **asked)
        shutil.rmtree(workspace / "models")
        assert ask(url, **asked) == before
        end(running)


def test_what_is_wrong_is_said_before_paddle_is_started(job, workspace: Path) -> None:
    for arguments, words in (
        (["--model", "tini"], 'did you mean "tiny"?'),
        (["--model", "tiny", "--adapter", "none"], 'no run "none"'),
        (["--model", "tiny", "--host", "0.0.0.0"], "requires --api-keys"),
        (["--model", "tiny", "--api-keys", "none"], "cannot read the API keys"),
    ):
        refused = job(["serve", *arguments], workspace)
        assert refused.status == 2
        assert words in refused.stderr and "start PaddlePaddle" not in refused.stderr


def test_an_adapter_answers_as_in_infer_and_as_merged(job, tiny_models, tmp_path: Path) -> None:
    shutil.copytree(tiny_models, tmp_path / "models")
    (tmp_path / "data").mkdir()
    words = ["ka", "lo", "mi", "tu", "ne", "sa", "ro", "vi"]
    records = [json.dumps({"src": f"{word} ?", "tgt": word * 3}) for word in words]
    (tmp_path / "data" / "train.json").write_text("\n".join(records))
    config = {"model_name_or_path": "tiny", "dataset_name_or_path": "data", "max_steps": 20}
    config |= {"learning_rate": 0.01, "lora": True}
    (tmp_path / "my.json").write_text(json.dumps(config))
    trained = job(["finetune", "--config", "my.json", "--name", "y"], tmp_path)
    assert trained.status == 0, trained.stderr
    merge = ["export", "--model", "tiny", "--adapter", "y", "--merge", "--output", "models/merged"]
    assert job(merge, tmp_path).status == 0
    line = ["--model", "tiny", "--adapter", "y"]
    wanted = job(["infer", *line, "--prompt", "lo ?", "--max-new-tokens", "16"], tmp_path).stdout
    for arguments, name in ((line, "y"), (["--model", "merged"], "merged")):
        with served(job, tmp_path, *arguments) as (running, url):
            asked = {"model": name, "messages": user("lo ?"), "temperature": 0, "max_tokens": 16}
            assert ask(url, **asked)["message"]["content"] + "\n" == wanted
            end(running)


# ------------------------------------------------------------------------ a model that speaks


def test_the_parity_prompts_are_answered_token_for_token(job, smollm2: Path) -> None:
    # test_parity.py holds the same prompts in PaddleNLP to Hugging Face transformers.
    prompts = json.loads((REPOSITORY / "tests" / "parity" / "prompts.json").read_text("utf-8"))
    texts, count = prompts["generate"], prompts["new_tokens"]
    lines = [json.dumps({"id": n, "prompt": text}) for n, text in enumerate(texts)]
    (smollm2 / "in.jsonl").write_text("\n".join(lines))
    name = "smollm2-135m-instruct"
    line = ["--model", name, "--input", "in.jsonl", "--max-new-tokens", str(count)]
    wanted = infer(job, smollm2, *line, "--batch-size", "1")
    with served(job, smollm2, "--model", name) as (running, url):
        client = client_of(url)

        def stream(text: str) -> tuple[str, list[str]]:
            chunks = client.chat.completions.create(
                model=name,
                messages=[{"role": "user", "content": text}],
                temperature=0,
                max_tokens=count,
                stream=True,
            )
            pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
            return "".join(pieces), pieces

        with ThreadPoolExecutor(len(texts)) as pool:
            found = list(pool.map(stream, texts))
        end(running)
    assert [text for text, _ in found] == [entry["text"] for entry in wanted]
    for _, pieces in found:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_container_is_stopped_when_its_answers_are_finished(job, smollm2: Path) -> None:
    name = "smollm2-135m-instruct"
    with served(job, smollm2, "--model", name) as (running, url):
        stream = client_of(url).chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": "Write a story about the sea."}],
            temperature=0,
            max_tokens=60,
            stream=True,
        )
        next(stream)
        running.send(signal.SIGTERM)
        running.wait_for("stopping: ")
        with pytest.raises(openai.InternalServerError) as refused:
            client_of(url).chat.completions.create(
                model=name, messages=[{"role": "user", "content": "Hi"}]
            )
        assert refused.value.status_code == 503
        chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"
        assert running.wait().status == 0


def test_inv_serves_and_stops(smollm2: Path) -> None:
    if PYTHON:
        pytest.skip("it takes containers")
    port = free_port()
    command = [sys.executable, "-m", "paddle_stacks.cli", "serve", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--model", "smollm2-135m-instruct"],
        cwd=REPOSITORY,
        env={**os.environ, "PADDLE_STACKS_WORKSPACE": str(smollm2)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr or ():
            if "ready after" in line:
                break
        found = ask(
            f"http://127.0.0.1:{port}",
            model="smollm2-135m-instruct",
            messages=user("What is the capital of France?"),
            temperature=0,
        )
        assert found["message"]["content"] == "The capital of France is Paris."
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port: int = tried.getsockname()[1]
        return port

"""The infer job in a real container, on Llamas of two layers, and on SmolLM2 where text counts."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

SYLLABLES = ["ka", "lo", "mi", "tu", "ne", "sa", "ro", "vi", "be", "do", "fa", "gu"]


def infer(job, workspace: Path, *arguments: str, stdin: str | None = None, status: int = 0):
    done = job(["infer", *arguments], workspace, stdin=stdin)
    assert done.status == status, done.stderr
    assert not any(word in done.stderr for word in ("WARNING", "ERROR", "Traceback")), done.stderr
    if status:
        assert done.stdout == ""
    return done


def write_prompts(path: Path, count: int = 7) -> Path:
    lines = []
    for number in range(count):
        words = [SYLLABLES[(number * step + step) % 12] for step in range(2 + 5 * number % 23)]
        lines.append(json.dumps({"id": f"q{number}", "prompt": " ".join([*words, "?"])}))
    path.write_text("\n".join(lines) + "\n")
    return path


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def ready(workspace: Path) -> Path:
    write_prompts(workspace / "in.jsonl")
    return workspace


@pytest.mark.parametrize("model", ["tiny", "tiny-fast", "tiny-bytes", "tiny-plain"])
def test_a_prompt_is_answered_on_standard_output_and_nothing_else(job, ready, model) -> None:
    line = ["--model", model, "--max-new-tokens", "12"]
    done = infer(job, ready, *line, "--prompt", "ka lo mi?")
    assert done.stdout.strip()
    assert done.stdout.endswith("\n")
    assert "result: tokens 12 tokens_per_second" in done.stderr
    again = infer(job, ready, *line, "--prompt", "-", stdin="ka lo mi?\n")
    assert again.stdout == done.stdout


@pytest.mark.parametrize("model", ["tiny", "tiny-fast", "tiny-qwen2"])
def test_a_file_is_answered_in_order_and_as_upstream_generates(job, ready, model) -> None:
    line = ["--model", model, "--input", "in.jsonl", "--max-new-tokens", "20"]
    infer(job, ready, *line, "--output", "out.jsonl", "--batch-size", "4")
    found = answers(ready / "out.jsonl")
    assert [entry["id"] for entry in found] == [f"q{number}" for number in range(7)]
    assert {frozenset(entry) for entry in found} == {
        frozenset({"id", "text", "token_ids", "finish_reason"})
    }
    for entry in found:
        ended = len(entry["token_ids"]) < 20
        assert entry["finish_reason"] == ("stop" if ended else "length")
    shutil.copy(Path(__file__).with_name("generated.py"), ready)
    upstream = job(["python", "generated.py", f"models/{model}", "in.jsonl", "20"], ready)
    assert upstream.status == 0, upstream.stderr
    wanted = json.loads(upstream.stdout.splitlines()[-1])
    assert {entry["id"]: entry["token_ids"] for entry in found} == wanted
    alone = infer(job, ready, *line, "--batch-size", "1")
    assert alone.stdout == (ready / "out.jsonl").read_text(encoding="utf-8")


def test_a_pipe_of_prompts(job, ready: Path) -> None:
    line = ["--model", "tiny", "--max-new-tokens", "5"]
    piped = infer(job, ready, *line, "--input", "-", stdin=(ready / "in.jsonl").read_text())
    infer(job, ready, *line, "--input", "in.jsonl", "--output", "out.jsonl")
    assert piped.stdout == (ready / "out.jsonl").read_text(encoding="utf-8")


def test_the_same_seed_makes_the_same_text_in_any_batch(job, ready: Path) -> None:
    line = ["--model", "tiny", "--input", "in.jsonl", "--max-new-tokens", "12"]
    line += ["--temperature", "0.9", "--top-k", "50", "--top-p", "0.95"]
    one, four, other = (
        infer(job, ready, *line, "--seed", seed, "--batch-size", size).stdout
        for seed, size in (("5", "1"), ("5", "4"), ("6", "4"))
    )
    assert one == four
    assert one != other


def test_a_killed_run_is_gone_on_with(job, ready: Path) -> None:
    write_prompts(ready / "in.jsonl", 60)
    line = ["--model", "tiny", "--input", "in.jsonl", "--output", "out.jsonl"]
    line += ["--batch-size", "1", "--max-new-tokens", "40"]
    running = job.start(["infer", *line], ready, hold_at="answers: 3/60")
    running.wait_for("answers: 3/60")
    running.send(signal.SIGKILL)
    assert running.wait().status == 128 + signal.SIGKILL
    assert not (ready / "out.jsonl").exists()
    refused = infer(job, ready, *line, "--seed", "3", status=2)
    assert "started with other values of --seed" in refused.stderr
    done = infer(job, ready, *line)
    assert "of 60 answers already exist" in done.stderr
    whole = infer(job, ready, *line[:4], *line[6:])
    assert (ready / "out.jsonl").read_text(encoding="utf-8") == whole.stdout
    assert not (ready / "out.jsonl.part").exists()


def test_a_stopped_run_says_so_and_is_gone_on_with(job, ready: Path) -> None:
    write_prompts(ready / "in.jsonl", 60)
    line = ["--model", "tiny", "--input", "in.jsonl", "--output", "out.jsonl", "--batch-size", "1"]
    running = job.start(["infer", *line], ready, hold_at="answers: 2/60")
    running.wait_for("answers: 2/60")
    running.send(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.status == 128 + signal.SIGTERM
    assert "Traceback" not in stopped.stderr
    assert (ready / "out.jsonl.part").is_file()
    assert "answers already exist" in infer(job, ready, *line).stderr
    assert len(answers(ready / "out.jsonl")) == 60


def test_a_stop_text_ends_the_answer(job, ready: Path) -> None:
    line = ["--model", "tiny", "--input", "in.jsonl", "--max-new-tokens", "24"]
    whole = json.loads(infer(job, ready, *line).stdout.splitlines()[0])
    stop = whole["text"][6:9]
    cut = json.loads(infer(job, ready, *line, "--stop", stop).stdout.splitlines()[0])
    assert cut["text"] == whole["text"][: whole["text"].index(stop)]
    assert cut["finish_reason"] == "stop"
    assert cut["token_ids"] == whole["token_ids"][: len(cut["token_ids"])]


def test_any_of_several_end_tokens_ends_the_answer_and_is_left_out(job, ready: Path) -> None:
    line = ["--model", "tiny", "--input", "in.jsonl", "--max-new-tokens", "24"]
    whole = json.loads(infer(job, ready, *line).stdout.splitlines()[0])["token_ids"]
    config = ready / "models" / "tiny" / "generation_config.json"
    config.write_text(json.dumps({"eos_token_id": [2, whole[5]]}))
    ended = json.loads(infer(job, ready, *line).stdout.splitlines()[0])
    assert ended["token_ids"] == whole[: whole.index(whole[5])]
    assert ended["finish_reason"] == "stop"


def test_an_answer_ends_where_the_context_does(job, ready: Path) -> None:
    shrink_context(ready / "models" / "tiny-fast", 40)
    line = ["--model", "tiny-fast", "--raw", "--max-new-tokens", "100"]
    done = infer(job, ready, *line, "--prompt", "x" * 30)
    assert "result: tokens 10 " in done.stderr
    for length, words in ((40, "40 tokens long"), (5000, "tokens long")):
        refused = infer(job, ready, *line, "--prompt", "x" * length, status=2)
        assert words in refused.stderr
        assert "the model's context 40" in refused.stderr


def shrink_context(model: Path, length: int) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": length}))


def test_what_a_line_wishes_and_how_likely_its_tokens_were(job, ready: Path) -> None:
    lines = [
        {"id": "usual", "prompt": "ka lo?"},
        {"id": "short", "prompt": "ka lo?", "max_new_tokens": 3},
        {"id": "warm", "prompt": "ka lo?", "temperature": 2.0, "seed": 4},
        {"id": "warm again", "prompt": "ka lo?", "temperature": 2.0, "seed": 5},
    ]
    (ready / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    line = ["--model", "tiny", "--input", "in.jsonl", "--max-new-tokens", "8"]
    infer(job, ready, *line, "--logprobs", "2", "--output", "out.jsonl")
    usual, short, warm, again = answers(ready / "out.jsonl")
    assert short["token_ids"] == usual["token_ids"][:3]
    assert warm["token_ids"] != again["token_ids"]
    for entry in (usual, short, warm, again):
        told = entry["logprobs"]
        assert [each["token_id"] for each in told] == entry["token_ids"]
        for each in told:
            first, second = each["top"]
            assert 0 > first["logprob"] >= second["logprob"]
            assert each["logprob"] <= first["logprob"]
    assert all(each["top"][0]["token_id"] == each["token_id"] for each in usual["logprobs"])
    plain = infer(job, ready, *line).stdout.splitlines()
    assert [json.loads(each)["token_ids"] for each in plain] == [
        entry["token_ids"] for entry in (usual, short, warm, again)
    ]
    assert "logprobs" not in json.loads(plain[0])


def test_a_benchmark(job, ready: Path) -> None:
    line = ["--model", "tiny", "--benchmark", "--batch-size", "2", "--source-length", "20"]
    done = infer(job, ready, *line, "--max-new-tokens", "5", "--rounds", "2")
    found = json.loads(done.stdout)
    assert (found["batch_size"], found["source_length"], found["output_length"]) == (2, 20, 5)
    assert found["decode_tokens_per_second"] > 0
    assert "to the first token" in done.stderr
    refused = infer(job, ready, *line, "--max-new-tokens", "500", status=2)
    assert "are 520 in total, but the model's context is 512" in refused.stderr


def test_messages_and_a_system_message(job, ready: Path) -> None:
    lines = [
        {"id": 1, "prompt": "ka?"},
        {"id": 2, "messages": [{"role": "user", "content": "ka?"}]},
        {"id": 3, "messages": [{"role": m, "content": "ka?"} for m in ("system", "user")]},
    ]
    (ready / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    line = ["--model", "tiny-fast", "--input", "in.jsonl", "--max-new-tokens", "8"]
    first, second, third = map(json.loads, infer(job, ready, *line).stdout.splitlines())
    assert first["token_ids"] == second["token_ids"] != third["token_ids"]
    led = infer(job, ready, *line, "--system", "ka?").stdout.splitlines()
    assert [json.loads(entry)["token_ids"] for entry in led] == [third["token_ids"]] * 3
    refused = infer(job, ready, *line, "--model", "tiny-plain", status=2)
    assert "no chat template" in refused.stderr
    assert "in.jsonl:2" in refused.stderr
    assert "and 1 more place: 3" in refused.stderr
    refused = infer(job, ready, *line, "--model", "tiny", "--system", "ka?", status=2)
    assert "fixed system message" in refused.stderr


def test_a_chat_remembers_until_it_is_reset(job, ready: Path) -> None:
    said = "ka lo?\n\nka lo?\n/reset\nka lo?\n/what\n/exit\nnever\n"
    line = ["--model", "tiny-fast", "--chat", "--max-new-tokens", "12", "--stop", "\n"]
    done = infer(job, ready, *line, stdin=said)
    first, second, third = done.stdout.splitlines()
    assert first == third != second
    assert "new conversation" in done.stderr
    assert "unknown command /what" in done.stderr


def test_a_chat_longer_than_the_context_forgets_its_oldest_turn(job, ready: Path) -> None:
    shrink_context(ready / "models" / "tiny-fast", 120)
    line = ["--model", "tiny-fast", "--chat", "--max-new-tokens", "30", "--stop", "\n"]
    done = infer(job, ready, *line, stdin="ka lo mi?\n" * 5)
    assert len(done.stdout.splitlines()) == 5
    assert "its oldest turn is dropped" in done.stderr


def test_a_chat_without_anything_to_read(job, ready: Path) -> None:
    refused = infer(job, ready, "--model", "tiny", "--chat", status=2)
    assert "docker run -it" in refused.stderr


@pytest.fixture(scope="module")
def adapted(job, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an adapter that was trained, and the model it makes."""
    workspace = tmp_path_factory.mktemp("adapted")
    shutil.copytree(tiny_models, workspace / "models")
    write_prompts(workspace / "in.jsonl")
    (workspace / "data" / "small").mkdir(parents=True)
    records = [{"src": f"{word} ?", "tgt": word * 3} for word in SYLLABLES]
    text = "\n".join(map(json.dumps, records))
    (workspace / "data" / "small" / "train.json").write_text(text)
    config = {
        "model_name_or_path": "tiny",
        "dataset_name_or_path": "data/small",
        "max_steps": 20,
        "learning_rate": 0.01,
        "lora": True,
    }
    (workspace / "my.json").write_text(json.dumps(config))
    trained = job(["finetune", "--config", "my.json", "--name", "y"], workspace)
    assert trained.status == 0, trained.stderr
    merge = ["export", "--model", "tiny", "--adapter", "y", "--merge", "--output", "models/merged"]
    merged = job(merge, workspace)
    assert merged.status == 0, merged.stderr
    return workspace


def test_an_adapter_gives_the_answers_of_the_merged_model(job, adapted: Path) -> None:
    line = ["--input", "in.jsonl", "--max-new-tokens", "16"]
    with_adapter = infer(job, adapted, "--model", "models/tiny", "--adapter", "runs/y", *line)
    merged = infer(job, adapted, "--model", "merged", *line)
    base = infer(job, adapted, "--model", "tiny", *line)
    assert with_adapter.stdout == merged.stdout != base.stdout
    short = infer(job, adapted, "--model", "tiny", "--adapter", "y", *line)
    assert short.stdout == with_adapter.stdout


def test_an_adapter_that_does_not_fit(job, adapted: Path) -> None:
    shutil.copy(Path(__file__).with_name("wrong_adapter.py"), adapted)
    made = job(["python", "wrong_adapter.py", "runs/wrong"], adapted)
    assert made.status == 0, made.stderr
    line = ["--model", "tiny", "--adapter", "wrong", "--prompt", "ka?"]
    refused = infer(job, adapted, *line, status=2)
    assert "the adapter does not fit the base model" in refused.stderr
    assert "q_proj.weight is [96, 96], the base model's [64, 64]" in refused.stderr


@pytest.mark.parametrize("size", [0, 100, -50])
def test_an_adapter_that_is_damaged(job, adapted: Path, tmp_path: Path, size: int) -> None:
    shutil.copytree(adapted / "models", tmp_path / "models")
    shutil.copytree(adapted / "runs", tmp_path / "runs")
    state = tmp_path / "runs" / "y" / "adapter" / "lora_model_state.pdparams"
    state.write_bytes(state.read_bytes()[:size])
    line = ["--model", "tiny", "--adapter", "y", "--prompt", "ka?"]
    refused = infer(job, tmp_path, *line, status=2)
    assert "lora_model_state.pdparams" in refused.stderr


def test_a_damaged_model_is_named(job, ready: Path) -> None:
    weights = ready / "models" / "tiny" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 4)
    refused = infer(job, ready, "--model", "tiny", "--prompt", "ka?", status=2)
    assert "truncated" in refused.stderr
    assert "models/tiny/model.safetensors" in refused.stderr


def test_a_model_that_is_not_what_its_configuration_says(job, ready: Path) -> None:
    path = ready / "models" / "tiny" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_hidden_layers": 3, "intermediate_size": 96}))
    refused = infer(job, ready, "--model", "tiny", "--prompt", "ka?", status=2)
    assert "llama.layers.0.mlp.gate_proj.weight has the shape [64, 128]" in refused.stderr
    path.write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    refused = infer(job, ready, "--model", "tiny", "--prompt", "ka?", status=2)
    assert '"BertModel" is not a causal language model' in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "tini", "--prompt", "x"], ['no model "tini"', 'did you mean "tiny"?']),
        (["--model", "tiny", "--prompt", " "], ["the prompt is empty"]),
        (["--model", "tiny", "--adapter", "z", "--prompt", "x"], ['no run "z"']),
        (["--model", "tiny", "--input", "none"], ["cannot read the prompts", "none"]),
        (["--model", "tiny", "--input", "bad.jsonl"], ["bad.jsonl:2", "bad.jsonl:3", "not JSON"]),
        (
            ["--model", "tiny", "--prompt", "x", "--top-p", "7"],
            ["--top-p must be greater than 0 and at most 1, got 7.0"],
        ),
    ],
)
def test_what_is_wrong_is_said_before_paddle_is_started(job, ready, arguments, words) -> None:
    (ready / "bad.jsonl").write_text('{"id": 1, "prompt": "x"}\n{"id": 2}\n{\n')
    refused = infer(job, ready, *arguments, status=2)
    assert [word for word in words if word not in refused.stderr] == []
    assert "start PaddlePaddle" not in refused.stderr


def test_an_output_that_exists_is_kept(job, ready: Path) -> None:
    (ready / "out.jsonl").write_text("mine")
    line = ["--model", "tiny", "--input", "in.jsonl", "--output", "out.jsonl"]
    assert "the output exists" in infer(job, ready, *line, status=2).stderr
    assert (ready / "out.jsonl").read_text() == "mine"


def test_the_first_command_of_the_documentation(job, smollm2: Path) -> None:
    line = ["--model", "smollm2-135m-instruct", "--prompt", "What is the capital of France?"]
    done = infer(job, smollm2, *line, "--decode", "greedy", "--max-new-tokens", "32")
    assert done.stdout == "The capital of France is Paris.\n"


def test_a_batch_answers_token_for_token_as_one_by_one(job, smollm2: Path) -> None:
    questions = [
        "Hi",
        "What is the capital of France?",
        "Write three sentences about the sea.",
        "请用中文介绍一下北京。",
        "List five animals with an emoji for each 🐶.",
        "How much is 17 plus 25? Think step by step, and then give the answer as a number.",
    ]
    lines = [json.dumps({"id": n, "prompt": text}) for n, text in enumerate(questions)]
    (smollm2 / "in.jsonl").write_text("\n".join(lines))
    line = ["--model", "smollm2-135m-instruct", "--input", "in.jsonl", "--max-new-tokens", "32"]
    together = infer(job, smollm2, *line, "--batch-size", "6")
    alone = infer(job, smollm2, *line, "--batch-size", "1")
    assert together.stdout == alone.stdout
    assert "🐶" in together.stdout
    assert "\ufffd" not in together.stdout


def test_a_cache_that_is_dropped_is_given_back(job, ready: Path) -> None:
    shutil.copy(Path(__file__).with_name("cache_memory.py"), ready)
    done = job(["python", "cache_memory.py"], ready)
    assert done.status == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 500, "of 4.6 GB that were made"

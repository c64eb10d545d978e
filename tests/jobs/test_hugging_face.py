"""Models and adapters of Hugging Face's libraries answer as transformers and PEFT do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support import hugging_face_cases as cases
from tests.support import hugging_face_files
from tests.support.runner import Runner

WANTED = json.loads(
    (Path(__file__).parents[1] / "parity" / "tokens.json").read_text(encoding="utf-8")
)
END = 2


@pytest.fixture(scope="module")
def answered(job: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the answers of every model and adapter, and models and adapters merged."""
    workspace = tmp_path_factory.mktemp("answered")
    prompts = [json.dumps({"id": n, "prompt": text}) for n, text in enumerate(cases.PROMPTS)]
    (workspace / "in.jsonl").write_text("\n".join(prompts))
    lines = []

    def ask(answers: str, model: str, *more: str) -> None:
        line = ["infer", "--model", model, "--input", "in.jsonl", *more]
        line += ["--max-new-tokens", str(cases.NEW_TOKENS)]
        lines.append([*line, "--raw", "--output", f"{answers}.raw"])
        lines.append([*line, "--output", f"{answers}.chat"])

    for name in cases.MODELS:
        cases.write_model(workspace / "hub" / name, name)
        lines.append(["fetch", name, "--from", f"hub/{name}"])
        ask(name, name)
    for name, options in cases.ADAPTERS.items():
        hugging_face_files.write_adapter(workspace / "runs" / name, **options)
        ask(f"adapter-{name}", "plain", "--adapter", name)
    (workspace / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shutil.copy(Path(__file__).with_name("many_jobs.py"), workspace)
    done = job(["python", "many_jobs.py", "jobs.jsonl"], workspace, 600)
    assert done.status == 0, done.stderr
    return workspace


def tokens(path: Path) -> list[list[int]]:
    return [json.loads(line)["token_ids"] for line in path.read_text().splitlines()]


def without_end(answers: list[list[int]], ends: set[int]) -> list[list[int]]:
    found = []
    for answer in answers:
        at = next((n for n, token in enumerate(answer) if token in ends), len(answer))
        found.append(answer[:at])
    return found


@pytest.mark.parametrize("kind", ["raw", "chat"])
@pytest.mark.parametrize("name", cases.MODELS)
def test_a_fetched_model_answers_as_transformers_does(answered: Path, name: str, kind: str) -> None:
    ends = {END, 7} if name == "penalty" else {END}
    wanted = without_end(WANTED["models"][name][kind], ends)
    assert without_end(tokens(answered / f"{name}.{kind}"), ends) == wanted


@pytest.mark.parametrize("kind", ["raw", "chat"])
@pytest.mark.parametrize("name", cases.ADAPTERS)
def test_an_adapter_answers_as_peft_does(answered: Path, name: str, kind: str) -> None:
    wanted = without_end(WANTED["adapters"][name][kind], {END})
    assert without_end(tokens(answered / f"adapter-{name}.{kind}"), {END}) == wanted


def test_an_adapter_of_peft_is_merged_and_trained_on(job: Runner, answered: Path) -> None:
    line = ["export", "--model", "plain", "--adapter", "rslora", "--merge"]
    merged = job([*line, "--output", "models/merged"], answered)
    assert merged.status == 0, merged.stderr
    (answered / "data").mkdir()
    record = {"src": "the cat", "tgt": "a hat"}
    for split in ("train", "dev"):
        (answered / "data" / f"{split}.json").write_text(json.dumps(record))
    config = {
        "model_name_or_path": "plain",
        "dataset_name_or_path": "data",
        "output_dir": "runs/further",
        "lora": True,
        "lora_path": "runs/rslora",
        "max_steps": 1,
        "learning_rate": 1e-30,
    }
    (answered / "further.json").write_text(json.dumps(config))
    trained = job(["finetune", "--config", "further.json"], answered)
    assert trained.status == 0, trained.stderr
    ask = ["infer", "--input", "in.jsonl", "--raw", "--max-new-tokens", str(cases.NEW_TOKENS)]
    lines = [
        [*ask, "--model", model, *more, "--output", output]
        for output, model, more in (
            ("merged.raw", "merged", []),
            ("further.raw", "plain", ["--adapter", "further"]),
        )
    ]
    (answered / "more.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = job(["python", "many_jobs.py", "more.jsonl"], answered)
    assert done.status == 0, done.stderr
    wanted = without_end(WANTED["adapters"]["rslora"]["raw"], {END})
    assert without_end(tokens(answered / "merged.raw"), {END}) == wanted
    assert without_end(tokens(answered / "further.raw"), {END}) == wanted


def test_a_model_without_a_template_cannot_chat_and_says_so_when_it_is_trained(
    job: Runner, tmp_path: Path
) -> None:
    hugging_face_files.write(tmp_path / "hub", tokenizer={"chat_template": None})
    fetched = job(["fetch", "bare", "--from", "hub"], tmp_path)
    assert fetched.status == 0, fetched.stderr
    done = job(["infer", "--model", "bare", "--chat"], tmp_path, stdin="the cat\n")
    assert (done.status, done.stdout) == (2, ""), done.stderr
    assert "the model has no chat template, so it cannot chat" in done.stderr
    (tmp_path / "data").mkdir()
    for split in ("train", "dev"):
        record = {"src": "the cat", "tgt": "a hat"}
        (tmp_path / "data" / f"{split}.json").write_text(json.dumps(record))
    config = {"model_name_or_path": "bare", "dataset_name_or_path": "data", "max_steps": 1}
    config |= {"lora": True, "output_dir": "runs/bare"}
    (tmp_path / "bare.json").write_text(json.dumps(config))
    trained = job(["finetune", "--config", "bare.json"], tmp_path)
    assert trained.status == 0, trained.stderr
    assert "bare has no chat template: it is trained on plain src and tgt" in trained.stderr

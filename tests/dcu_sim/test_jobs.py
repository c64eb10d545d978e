"""Jobs on a simulated host with eight cards, with all that a DCU's plan asks for.

They compute on the CPU, or are stand-ins for upstream's programs that say how they were
called; the plan, its nodes, groups and limits, and the way through the images are real.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks import recipes
from paddle_stacks.simulated.hosts import make
from tests.support import inference_recipes

ROOT = Path(__file__).parents[2]
TRAIN, INFER = "paddle-stacks/train:dcu-sim", "paddle-stacks/infer:dcu-sim"
USER = "1000:1000"
CONFIG = {
    "model_name_or_path": "sentencepiece",
    "dataset_name_or_path": "data/small",
    "output_dir": "runs/t",
    "do_train": True,
    "lora": True,
    "lora_rank": 4,
    "src_length": 32,
    "max_length": 64,
    "per_device_train_batch_size": 4,
    "num_train_epochs": 1,
    "learning_rate": 0.01,
    "logging_steps": 1,
}

Inv = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of user 1000 with a tiny model, its data and a configuration."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "data" / "small").mkdir(parents=True)
    record = [{"src": f"ka lo {n % 7}", "tgt": f"mi tu {n % 7}"} for n in range(24)]
    lines = "".join(json.dumps(entry) + "\n" for entry in record)
    (folder / "data" / "small" / "train.json").write_text(lines)
    (folder / "tiny.json").write_text(json.dumps(CONFIG))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 1000, 1000)
    made = docker(
        *("--user", USER, "--volume", f"{ROOT}/tests/support/tiny.py:/tiny.py:ro"),
        *("--volume", f"{folder}:/workspace", TRAIN),
        *("python", "/tiny.py", "/workspace/models", "sentencepiece"),
    )
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("ok", tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def inv(workspace: Path, machine: Path) -> Inv:
    """``inv(words)`` runs a task against the simulated host."""

    def run(
        *words: str, host: Path = machine, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PADDLE_STACKS_BACKEND": "dcu-sim",
            "PADDLE_STACKS_HOST_ROOT": str(host),
            "PADDLE_STACKS_WORKSPACE": str(workspace),
            **variables,
        }
        command = [sys.executable, "-m", "paddle_stacks.cli", *words]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    return run


def docker(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "run", "--rm", "--network=none", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.fast
def test_a_model_is_fine_tuned_and_answers(inv: Inv, workspace: Path) -> None:
    trained = inv("finetune", "--config", "tiny.json", "--devices", "0")
    assert trained.returncode == 0, trained.stderr
    assert "a simulated DCU" in trained.stderr, "what ran is named for what it is"
    run = workspace / "runs" / "t"
    plan = json.loads((run / "plan.json").read_text())
    assert plan["environment"]["HIP_VISIBLE_DEVICES"] == "0"
    assert [device["target"] for device in plan["devices"]] == ["/dev/kfd", "/dev/dri", "/dev/mkfd"]
    assert plan["groups"] == ["44", "109"]
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("loss" in entry for entry in losses)
    answered = inv(
        *("infer", "--model", "sentencepiece", "--adapter", "t", "--prompt", "ka lo 1"),
        *("--max-new-tokens", "4"),
    )
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.strip()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("variation", "words"),
    [("no-kfd", "/dev/kfd"), ("no-hyhal", "/opt/hyhal"), ("driver-6.3", "24.04")],
)
def test_an_unfit_machine_is_refused_before_a_container_starts(
    inv: Inv, tmp_path: Path, variation: str, words: str
) -> None:
    done = inv("finetune", "--config", "tiny.json", host=make(variation, tmp_path / "host"))
    assert done.returncode == 3, done.stderr
    assert words in done.stderr


def test_a_card_that_is_not_there_is_refused(inv: Inv) -> None:
    done = inv("finetune", "--config", "tiny.json", "--devices", "7,8")
    assert done.returncode == 3, done.stderr
    assert "8" in done.stderr and "error" in done.stderr


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Path:
    """A workspace with what the recipes ask for: models by name, data, configurations."""
    folder = tmp_path_factory.mktemp("stocked")
    for name in ("llama-2-7b", "llama-2-13b", "llama-2-13b-chat"):
        shutil.copytree(workspace / "models" / "sentencepiece", folder / "models" / name)
    shutil.copytree(ROOT / "configs" / "jobs", folder / "configs" / "jobs")
    shutil.copytree(workspace / "data" / "small", folder / "data" / "alpaca")
    shutil.copy(folder / "data" / "alpaca" / "train.json", folder / "data" / "alpaca" / "dev.json")
    (folder / "data" / "openwebtext").mkdir()
    for suffix in ("idx", "bin"):
        (folder / "data" / "openwebtext" / f"text.{suffix}").write_bytes(b"x")
    for config in (folder / "models").glob("*/config.json"):
        # As the models whose places they take; the tiny one's 512 would be refused.
        values = {**json.loads(config.read_text()), "max_position_embeddings": 4096}
        config.write_text(json.dumps(values))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 1000, 1000)
    return folder


TRAINING = {
    name: recipe
    for name, recipe in recipes.load(ROOT, "dcu-sim").items()
    if recipe.script and recipe.nodes == 1 and recipe.job in ("finetune", "pretrain")
}
INFERENCE = inference_recipes.inference_recipes("dcu-sim")


@pytest.mark.parametrize("name", TRAINING)
def test_a_recipe_reaches_upstreams_program(inv: Inv, stocked: Path, name: str) -> None:
    recipe = TRAINING[name]
    done = inv(recipe.job, "--recipe", name, PADDLE_STACKS_WORKSPACE=str(stocked))
    assert done.returncode == 0, done.stderr
    log = done.stdout + (stocked / "runs" / name / "run.log").read_text()
    log += "".join(path.read_text() for path in (stocked / "runs" / name).glob("log/workerlog.*"))
    call = called(log)
    assert call["program"].endswith(recipe.script)
    plan = json.loads((stocked / "runs" / name / "plan.json").read_text())
    given = plan["argv"][plan["argv"].index(recipe.script) + 1 :]
    assert call["arguments"][: len(given)] == given
    ranks = {json.loads(line)["environment"].get("PADDLE_TRAINER_ID") for line in _calls(log)}
    assert len(ranks) == recipe.cards
    for before in recipe.depends_on:
        assert (stocked / "runs" / before / "result.json").is_file()


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Path:
    """A workspace with what the inference recipes read."""
    folder = tmp_path_factory.mktemp("answering")
    inference_recipes.stock(folder, workspace / "models" / "sentencepiece")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 1000, 1000)
    return folder


@pytest.fixture(scope="module")
def answers(inv: Inv, answering: Path) -> inference_recipes.Answers:
    return inference_recipes.Answers(
        partial(inv, PADDLE_STACKS_WORKSPACE=str(answering)), answering
    )


@pytest.mark.parametrize("name", INFERENCE)
def test_an_inference_recipe_computes(answers: inference_recipes.Answers, name: str) -> None:
    """With the plan of a DCU: its image, nodes, groups and limits."""
    inference_recipes.check(answers, name)


@pytest.mark.parametrize("name", ["infer-fp16", "infer-block-fp16"])
def test_in_float32_it_has_the_answers_of_the_plain_network(
    answers: inference_recipes.Answers, name: str
) -> None:
    inference_recipes.check_float32(answers, name)


def _calls(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith('{"program"')]


def called(text: str) -> dict[str, Any]:
    """Return what a stand-in program said of its call."""
    lines = _calls(text)
    assert lines, text
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def test_any_script_of_upstreams_runs_verbatim(workspace: Path) -> None:
    words = ("run_pretrain.py", "--input_dir", "data/small")
    done = docker("--user", USER, "--volume", f"{workspace}:/workspace", TRAIN, "upstream", *words)
    assert done.returncode == 0, done.stderr
    call = called(done.stdout + done.stderr)
    assert call["program"] == "/opt/PaddleNLP/llm/run_pretrain.py"
    assert call["arguments"] == ["--input_dir", "data/small"]
    assert call["package"] == "tests/paddlenlp", "its own paddlenlp, beside it"
    assert call["folder"] == "/workspace"


@pytest.mark.parametrize("status", [1, 3])
def test_a_script_that_fails_is_a_failed_job(workspace: Path, status: int) -> None:
    words = ("run_pretrain.py", f"--exit={status}")
    done = docker("--user", USER, "--volume", f"{workspace}:/workspace", TRAIN, "upstream", *words)
    assert done.returncode == 5, done.stderr
    assert "run_pretrain.py" in done.stderr


def test_a_wrong_flag_of_the_instructions_gets_the_right_one(workspace: Path) -> None:
    words = ("predict/predictor.py", "--model_name_or_path", "x", "---cachekv_int8")
    done = docker("--user", USER, "--volume", f"{workspace}:/workspace", INFER, "upstream", *words)
    assert done.returncode == 2, done.stderr
    assert "--cachekv_int8_type" in done.stderr

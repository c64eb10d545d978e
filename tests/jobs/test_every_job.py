"""Every job, each in a container of its own, on a model of two layers.

What these containers compute is compared with forks of warm containers, in which the other
tests of this folder run their jobs.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.jobs.test_finetune import SETTINGS, write_records
from tests.jobs.test_infer import write_prompts
from tests.jobs.test_serve import client_of, end, served
from tests.support.runner import PYTHON, Finished, Runner
from tests.support.training import PRETRAIN, configure, losses, train

pytestmark = [
    pytest.mark.fast,
    pytest.mark.skipif(PYTHON is not None, reason="there are no containers"),
]


def succeed(job: Runner, workspace: Path, *line: str) -> Finished:
    done = job(line, workspace)
    assert done.status == 0, done.stderr
    assert not any(word in done.stderr for word in ("WARNING", "ERROR", "Traceback")), done.stderr
    return done


def write_data(workspace: Path) -> None:
    for name, count in (("train", 40), ("dev", 4)):
        path = workspace / "data" / "small" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        write_records(path, count)


def test_fetch(container_job: Runner, workspace: Path) -> None:
    done = succeed(container_job, workspace, "fetch", "mine", "--from", "models/tiny-fast")
    assert done.stdout == "models/mine\n"
    weights = [workspace / "models" / name / "model.safetensors" for name in ("mine", "tiny-fast")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_prepare_and_inspect(container_job: Runner, job: Runner, workspace: Path) -> None:
    lines = [json.dumps({"text": "ka lo mi " * (1 + n % 4)}) + "\n" for n in range(40)]
    (workspace / "text.jsonl").write_text("".join(lines))
    line = ["prepare", "--input", "text.jsonl", "--model", "tiny", "--output"]
    assert succeed(container_job, workspace, *line, "data/one").stdout == "data/one\n"
    succeed(job, workspace, *line, "data/other")
    for suffix in ("bin", "idx"):
        one, other = (workspace / "data" / f"{name}.{suffix}" for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()
    assert "40" in succeed(container_job, workspace, "inspect", "data/one").stdout


def test_pretrain(container_job: Runner, job: Runner, workspace: Path, small_corpus: Path) -> None:
    shutil.copytree(small_corpus, workspace / "data", dirs_exist_ok=True)
    configure(workspace, PRETRAIN)
    one = train(container_job, "pretrain", workspace, "one")
    assert one == train(job, "pretrain", workspace, "other")
    weights = [
        workspace / "runs" / name / "model" / "model.safetensors" for name in ("one", "other")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_finetune_that_is_killed_and_resumed(
    container_job: Runner, job: Runner, workspace: Path
) -> None:
    write_data(workspace)
    configure(workspace, SETTINGS, max_steps=12, save_steps=4)
    whole = train(job, "finetune", workspace, "whole")
    line = ["finetune", "--config", "my.json", "--name", "killed"]
    running = container_job.start(line, workspace, hold_at="saved checkpoint-8")
    running.wait_for("saved checkpoint-8")
    running.send(signal.SIGKILL)
    assert running.wait().status == 128 + signal.SIGKILL
    assert not (workspace / "runs" / "killed" / "adapter").exists()
    again = succeed(container_job, workspace, *line)
    assert "resuming from runs/killed/checkpoint-8" in again.stderr
    assert losses(workspace / "runs" / "killed") == whole


def test_an_adapter_is_merged_and_both_answer_the_same(
    container_job: Runner, job: Runner, workspace: Path
) -> None:
    write_data(workspace)
    configure(workspace, SETTINGS, max_steps=8)
    train(job, "finetune", workspace, "taught")
    write_prompts(workspace / "in.jsonl")
    export = ["export", "--model", "tiny", "--adapter", "taught", "--merge"]
    succeed(container_job, workspace, *export, "--output", "models/merged")
    line = ["infer", "--input", "in.jsonl", "--max-new-tokens", "12", "--model"]
    merged = succeed(container_job, workspace, *line, "merged").stdout
    assert merged == succeed(job, workspace, *line, "tiny", "--adapter", "taught").stdout
    assert merged != succeed(job, workspace, *line, "tiny").stdout


def test_quantize(container_job: Runner, job: Runner, workspace: Path) -> None:
    line = ["quantize", "--model", "tiny", "--set", "quant_type=weight_only_int8"]
    line += ["--set", "max_length=64", "--set", "ptq_step=4", "--output"]
    succeed(container_job, workspace, *line, "models/one")
    succeed(job, workspace, *line, "models/other")
    weights = [workspace / "models" / name / "model.safetensors" for name in ("one", "other")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_serve_answers_as_infer_does(container_job: Runner, job: Runner, workspace: Path) -> None:
    line = ["infer", "--model", "tiny", "--prompt", "ka lo", "--max-new-tokens", "8"]
    answer = succeed(job, workspace, *line, "--decode", "greedy").stdout
    with served(container_job, workspace, "--model", "tiny") as (running, url):
        response = client_of(url).chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "ka lo"}],
            temperature=0,
            max_tokens=8,
        )
        end(running)
    assert response.choices[0].message.content == answer.rstrip("\n")


def test_a_wrong_request_ends_with_2(container_job: Runner, workspace: Path) -> None:
    done = container_job(["infer", "--model", "tinny", "--prompt", "x"], workspace)
    assert done.status == 2 and 'did you mean "tiny"?' in done.stderr

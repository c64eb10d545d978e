"""The pretrain job in a real container, on a Llama of two layers."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.support.training import PRETRAIN, configure, losses, metrics, train


@pytest.fixture
def ready(workspace: Path, small_corpus: Path) -> Path:
    shutil.copytree(small_corpus, workspace / "data", dirs_exist_ok=True)
    configure(workspace, PRETRAIN)
    return workspace


def test_a_pretraining_leaves_a_whole_run(job, ready: Path) -> None:
    configure(
        ready,
        PRETRAIN,
        continue_training=False,
        max_steps=24,
        logging_steps=1,
        evaluation_strategy="steps",
        eval_steps=12,
        do_predict=True,
        save_steps=8,
        save_total_limit=2,
    )
    line = ["pretrain", "--config", "my.json", "--name", "new", "--peak-tflops", "0.1"]
    done = job(line, ready)
    assert (done.status, done.stdout) == (0, "runs/new/model\n"), done.stderr
    run = ready / "runs" / "new"
    curve = losses(run)
    assert list(curve) == list(range(1, 25))
    # The vocabulary of a new model is rounded up to a multiple of 128.
    assert curve[1] == pytest.approx(math.log(1024), abs=0.2)
    assert curve[24] < curve[1] - 0.5
    steps = [entry for entry in metrics(run) if "loss" in entry]
    assert [entry["tokens"] for entry in steps] == [256 * n for n in range(1, 25)]
    assert all(0 < entry["mfu"] < 1 for entry in steps)
    rates = [entry["learning_rate"] for entry in steps]
    assert max(rates) == pytest.approx(3e-3) and rates[-1] == pytest.approx(3e-4, rel=0.2)
    evaluated = [entry for entry in metrics(run) if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [12, 24]
    for entry in evaluated:
        assert entry["eval_perplexity"] == pytest.approx(math.exp(entry["eval_loss"]))
    assert evaluated[1]["eval_loss"] < evaluated[0]["eval_loss"]
    result = json.loads((run / "result.json").read_text())
    assert result["tokens"] == 24 * 256 and result["test_loss"] < curve[1]
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in run.glob("checkpoint-*")) == ["checkpoint-16", "checkpoint-24"]
    asked = job(["infer", "--model", "runs/new", "--prompt", "ka", "--max-new-tokens", "4"], ready)
    assert asked.status == 0 and asked.stdout.strip(), asked.stderr
    again = job(line, ready)
    assert (again.status, again.stdout) == (0, "runs/new/model\n")
    assert "runs/new is finished" in again.stderr


def test_it_continues_from_weights(job, ready: Path) -> None:
    first = train(job, "pretrain", ready, "first", "--set", "max_steps=30")
    configure(ready, PRETRAIN, model_name_or_path="runs/first", warmup_steps=0)
    then = train(job, "pretrain", ready, "then")
    assert then[1] < first[1] - 0.3, "it begins where the other one ended"


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_and_resumed_it_has_the_curve_of_one_that_was_not(
    job, ready: Path, seed: int
) -> None:
    configure(ready, PRETRAIN, max_steps=150, save_steps=10, save_total_limit=3)
    whole = train(job, "pretrain", ready, "whole")
    pick = random.Random(seed)
    line = ["pretrain", "--config", "my.json", "--name", "killed"]
    for _ in range(3):
        running = job.start(line, ready)
        running.wait_for("== train")
        time.sleep(pick.uniform(0.05, 0.5))
        running.send(signal.SIGKILL)
        running.wait()
    done = job(line, ready)
    assert done.status == 0, done.stderr
    assert losses(ready / "runs" / "killed") == whole
    weights = [
        ready / "runs" / name / "model" / "model.safetensors" for name in ("whole", "killed")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_told_to_stop_it_saves_and_goes_on_from_there(job, ready: Path) -> None:
    configure(ready, PRETRAIN, max_steps=300, save_steps=300)
    line = ["pretrain", "--config", "my.json", "--name", "stopped"]
    running = job.start(line, ready, hold_at="step 3/300")
    running.wait_for("step 3/300")
    running.send(signal.SIGTERM)
    done = running.wait()
    assert done.status == 143, done.stderr
    [checkpoint] = (ready / "runs" / "stopped").glob("checkpoint-*")
    step = int(checkpoint.name.rpartition("-")[2])
    assert f"stopped after step {step}, which is saved" in done.stderr
    again = job.start(line, ready)
    assert f"step {step}" in again.wait_for("resuming from")
    again.wait_for(f"step {step + 1}/300")
    again.send(signal.SIGKILL)
    again.wait()


def test_a_damaged_checkpoint_is_passed_over(job, ready: Path) -> None:
    whole = train(job, "pretrain", ready, "whole")
    train(job, "pretrain", ready, "hurt")
    run = ready / "runs" / "hurt"
    (run / "result.json").unlink()
    [weights] = (run / "checkpoint-4").glob("model*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    done = job(["pretrain", "--config", "my.json", "--name", "hurt"], ready)
    assert done.status == 0, done.stderr
    assert "checkpoint-4 is skipped" in done.stderr
    assert "resuming from runs/hurt/checkpoint-2, step 2" in done.stderr
    assert losses(run) == whole


def test_the_order_of_samples_is_upstreams(job, ready: Path) -> None:
    shutil.copy(Path(__file__).with_name("upstream_order.py"), ready)
    shutil.copytree(ready / "data", ready / "theirs")
    done = job(["python", "upstream_order.py", "theirs/small", "data/small"], ready)
    assert done.status == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "equal: 2 processes, 12 batches each"


def test_corpora_are_blended_by_their_weights(job, ready: Path) -> None:
    for suffix in ("bin", "idx"):
        shutil.copy(ready / "data" / f"small.{suffix}", ready / "data" / f"other.{suffix}")
    one = train(job, "pretrain", ready, "one")
    blend = ("--set", "input_dir=0.3 data/small 0.7 data/other")
    assert train(job, "pretrain", ready, "blend", *blend) != one
    folder = train(job, "pretrain", ready, "folder", "--set", "input_dir=data")
    assert folder != one


def test_other_data_is_not_gone_on_with(job, ready: Path) -> None:
    train(job, "pretrain", ready, "x", "--set", "max_steps=2", "--set", "save_steps=1")
    (ready / "runs" / "x" / "result.json").unlink()
    line = ["pretrain", "--config", "my.json", "--name", "x", "--set", "save_steps=1"]
    longer = job([*line, "--set", "max_steps=3"], ready)
    assert longer.status == 2 and '"max_steps" was 2 in this run, but is 3 now' in longer.stderr
    for suffix in ("bin", "idx"):
        (ready / "data" / f"small.{suffix}").rename(ready / "data" / f"old.{suffix}")
    text = [json.dumps({"text": "ka lo mi tu " * 30}) for _ in range(100)]
    (ready / "text.jsonl").write_text("\n".join(text) + "\n")
    made = ["prepare", "--input", "text.jsonl", "--output", "data/small", "--model", "tiny"]
    assert job([*made, "--force"], ready).status == 0
    other = job([*line, "--set", "max_steps=2"], ready)
    assert other.status == 2
    assert "the training data has changed since this checkpoint" in other.stderr


def test_a_corpus_that_may_not_be_written_beside(job, ready: Path) -> None:
    """The index of the samples is kept in the run's folder, not beside the corpus."""
    (ready / "data").chmod(0o555)
    try:
        train(job, "pretrain", ready, "x")
    finally:
        (ready / "data").chmod(0o755)
    assert not (ready / "data" / "index-cache").exists()
    assert list((ready / "runs" / "x" / "index-cache").glob("*_shuffle_idx.npy"))

"""Trainings in several processes on a CPU: whatever the layout, the losses of one process."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.training import PRETRAIN, configure, cut_back, losses, metrics, train

TENSOR = ("--set", "tensor_parallel_degree=2")
PIPELINE = ("--set", "pipeline_parallel_degree=2")
SHARDED = ("--set", "sharding=stage1")
HALF = ("--set", "gradient_accumulation_steps=2")  # two processes share a step's batches
# Sums of float32 in another order; the losses are around 6.9.
CLOSE = 2e-5

LAYOUTS = {
    "data": ("2", *HALF),
    "tensor": ("2", *TENSOR),
    "pipeline": ("2", *PIPELINE),
    "sharding": ("2", *SHARDED, *HALF),
    "sequence": ("2", *TENSOR, "--set", "sequence_parallel=true"),
    "tensor-data": ("4", *TENSOR, *HALF),
    "tensor-pipeline": ("4", *TENSOR, *PIPELINE),
    "pipeline-data": ("4", *PIPELINE, *HALF),
    "tensor-sharding": ("4", *TENSOR, *SHARDED, *HALF),
    "virtual": (*("4", "--set", "pipeline_parallel_degree=4", "--set", "virtual_pp_degree=2"),),
}


@pytest.fixture(scope="module")
def shared(tiny_models: Path, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace for all tests here, with a pretraining's configuration."""
    folder = tmp_path_factory.mktemp("parallel")
    shutil.copytree(tiny_models, folder / "models")
    shutil.copytree(small_corpus, folder / "data")
    configure(
        folder, PRETRAIN, model_name_or_path="tiny-deep", evaluation_strategy="steps", eval_steps=4
    )
    return folder


@pytest.fixture(scope="module")
def alone(job, shared: Path) -> dict[int, float]:
    """The losses of one process, whose run is ``alone``."""
    return train(job, "pretrain", shared, "alone")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_has_the_losses_of_one_process(
    job, shared: Path, alone: dict[int, float], layout: str
) -> None:
    ranks, *changes = LAYOUTS[layout]
    found = train(job, "pretrain", shared, layout, "--ranks", ranks, *changes)
    assert list(found) == [1, 2, 3, 4]
    assert found == pytest.approx(alone, abs=CLOSE)
    assert found[4] < found[1] - 0.05, "it has learned something that could differ"
    run = shared / "runs" / layout
    tokens = [entry["tokens"] for entry in metrics(run) if "loss" in entry]
    assert tokens == [256, 512, 768, 1024]
    evaluated = metrics(run)[-1]
    if not any("accumulation" in change for change in changes):  # or more samples are looked at
        expected = metrics(shared / "runs" / "alone")[-1]
        assert evaluated["eval_loss"] == pytest.approx(expected["eval_loss"], abs=CLOSE)
    written = json.loads((run / "model" / "config.json").read_text())
    assert not [key for key in written if "parallel" in key and written[key] not in (1, -1, False)]


def test_a_container_of_its_own_has_the_same_losses(
    container_job, job, shared: Path, alone: dict[int, float]
) -> None:
    """The other tests' ranks are forks of one process; these are started by Paddle's launcher."""
    arguments = ("--ranks", *LAYOUTS["tensor"])
    if not (shared / "runs" / "tensor").is_dir():
        train(job, "pretrain", shared, "tensor", *arguments)
    started = train(container_job, "pretrain", shared, "started", *arguments)
    assert started == losses(shared / "runs" / "tensor")


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("tensor", ("1",)),
        ("pipeline", LAYOUTS["tensor"]),
        ("tensor-data", LAYOUTS["pipeline"]),
        ("sharding", ("1",)),
        ("alone", LAYOUTS["tensor-pipeline"]),
        ("alone", LAYOUTS["sharding"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value[1:]) or "one",
)
def test_a_checkpoint_goes_on_in_another_layout(
    job, shared: Path, alone: dict[int, float], first: str, then: tuple[str, ...]
) -> None:
    if not (shared / "runs" / first).is_dir():
        ranks, *changes = LAYOUTS[first]
        train(job, "pretrain", shared, first, "--ranks", ranks, *changes)
    ranks, *changes = then
    name = f"{first}-then-{ranks}-{len(changes)}"
    shutil.copytree(shared / "runs" / first, shared / "runs" / name)
    cut_back(shared / "runs" / name, 2)
    line = ["pretrain", "--config", "my.json", "--name", name, "--ranks", ranks, *changes]
    done = job(line, shared)
    assert done.status == 0, done.stderr
    assert f"resuming from runs/{name}/checkpoint-2, step 2" in done.stderr
    assert losses(shared / "runs" / name) == pytest.approx(alone, abs=CLOSE)


def test_what_several_wrote_is_a_model_like_any_other(job, shared: Path, alone) -> None:
    if not (shared / "runs" / "tensor").is_dir():
        train(job, "pretrain", shared, "tensor", "--ranks", *LAYOUTS["tensor"])
    answers = [
        job(["infer", "--model", name, "--prompt", "ka lo", "--max-new-tokens", "8"], shared)
        for name in ("runs/alone", "runs/tensor")
    ]
    assert [done.status for done in answers] == [0, 0], answers
    assert answers[0].stdout == answers[1].stdout != ""


def test_a_step_of_another_size_is_not_gone_on_with(job, shared: Path, alone) -> None:
    cut = shared / "runs" / "other-size"
    shutil.copytree(shared / "runs" / "alone", cut)
    cut_back(cut, 2)
    line = ["pretrain", "--config", "my.json", "--name", "other-size", "--ranks", "2"]
    done = job(line, shared)
    assert done.status == 2
    assert "this checkpoint has 8 sequences per step, but this configuration has 16" in done.stderr


def test_told_to_stop_all_of_them_save_the_same_step(job, shared: Path, alone) -> None:
    line = ["pretrain", "--config", "my.json", "--name", "stopped", "--ranks", "2", *TENSOR]
    running = job.start([*line, "--set", "max_steps=200", "--set", "save_steps=200"], shared)
    running.wait_for("step 2/200")
    running.send(signal.SIGTERM)
    done = running.wait()
    assert done.status == 143, done.stderr
    assert "which is saved" in done.stderr
    [checkpoint] = (shared / "runs" / "stopped").glob("checkpoint-*")
    assert (checkpoint / "checkpoint.json").is_file()
    step = int(checkpoint.name.rpartition("-")[2])
    assert f"stopped after step {step}" in done.stderr


def test_what_one_process_says_is_what_the_job_says(job, shared: Path) -> None:
    line = ["pretrain", "--config", "my.json", "--name", "wild", "--ranks", "2", *HALF]
    done = job([*line, "--set", "learning_rate=1e30", "--set", "warmup_steps=0"], shared)
    assert done.status == 5, done.stderr
    assert "the loss is not finite at step" in done.stderr
    assert 'reduce "learning_rate"' in done.stderr
    assert not (shared / "runs" / "wild" / "result.json").exists()


ANSWERS = {
    "model_name_or_path": "tiny",
    "dataset_name_or_path": "data/pairs",
    "src_length": 24,
    "max_length": 48,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "max_steps": 4,
    "learning_rate": 3e-3,
    "logging_steps": 1,
    "save_steps": 2,
    "evaluation_strategy": "steps",
    "eval_steps": 4,
}


@pytest.fixture(scope="module")
def answering(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    shutil.copytree(tiny_models, folder / "models")
    (folder / "data" / "pairs").mkdir(parents=True)
    words = ["ka", "lo", "mi", "tu", "ne", "sa", "ro", "vi"]
    for split, count in (("train", 32), ("dev", 5)):
        rows = [
            {"src": " ".join(words[: 1 + n % 7]), "tgt": " ".join(words[n % 5 : 3 + n % 5])}
            for n in range(count)
        ]
        text = "\n".join(map(json.dumps, rows)) + "\n"
        (folder / "data" / "pairs" / f"{split}.json").write_text(text)
    return folder


@pytest.fixture(scope="module", params=["full", "lora"])
def taught(request, job, answering: Path) -> tuple[str, dict[int, float]]:
    """A kind of fine-tuning, its configuration in place, and the losses of one process.

    An adapter to begin with: a new one is drawn by chance, and each process draws its own.
    """
    configure(answering, ANSWERS, lora=True)
    if request.param == "lora":
        train(job, "finetune", answering, "beginning", "--resume", "never")
        configure(answering, ANSWERS, lora=True, lora_path="beginning")
    else:
        configure(answering, ANSWERS)
    return request.param, train(job, "finetune", answering, f"{request.param}-alone")


@pytest.mark.parametrize("layout", ["data", "tensor", "pipeline", "sharding", "tensor-pipeline"])
def test_a_fine_tuning_has_the_losses_of_one_process(
    job, answering: Path, taught: tuple[str, dict[int, float]], layout: str
) -> None:
    kind, alone = taught
    ranks, *changes = LAYOUTS[layout]
    name = f"{kind}-{layout}"
    found = train(job, "finetune", answering, name, "--ranks", ranks, *changes)
    assert found == pytest.approx(alone, abs=CLOSE)
    expected = metrics(answering / "runs" / f"{kind}-alone")[-1]
    evaluated = metrics(answering / "runs" / name)[-1]
    assert evaluated["eval_loss"] == pytest.approx(expected["eval_loss"], abs=CLOSE)
    assert ("eval_accuracy" in evaluated) == ("pipeline" not in layout)
    # What was saved is whole, and is read by one process.
    of_run = ["--adapter", name] if kind == "lora" else []
    model = "tiny" if kind == "lora" else f"runs/{name}"
    asked = ["infer", "--model", model, *of_run, "--prompt", "ka lo", "--max-new-tokens", "6"]
    assert job(asked, answering).status == 0


def test_a_fine_tuning_in_parts_is_resumed(job, answering: Path, taught) -> None:
    kind, alone = taught
    name = f"{kind}-again"
    train(job, "finetune", answering, name, "--ranks", "2", *TENSOR)
    cut_back(answering / "runs" / name, 2)
    assert train(job, "finetune", answering, name, "--ranks", "2", *PIPELINE) == pytest.approx(
        alone, abs=CLOSE
    )
    cut_back(answering / "runs" / name, 2)
    assert train(job, "finetune", answering, name) == pytest.approx(alone, abs=CLOSE)

"""The quantize job in a real container: what it writes, and what infer, export and serve read."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.jobs.test_infer import answers, infer, write_prompts
from tests.jobs.test_serve import client_of, end, served

SHORT = ("--set", "max_length=64", "--set", "ptq_step=4", "--set", "smooth_step=4")
ALL = ("--set", "smooth=true", "--set", "smooth_all_linears=true")
ALL += ("--set", "shift=true", "--set", "shift_all_linears=true", "--set", "shift_step=4")


def quantize(job, workspace: Path, *arguments: str, status: int = 0, model: str = "tiny"):
    line = ["quantize", "--model", model, "--output", "models/q", *SHORT, *arguments]
    done = job(line, workspace, 600)
    assert done.status == status, done.stderr
    assert not any(word in done.stderr for word in ("WARNING", "ERROR", "Traceback")), done.stderr
    assert done.stdout == ("" if status else "models/q\n")
    return done


def report(workspace: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workspace / "models" / "q" / "quantize.json").read_text())
    return found


def script(job, workspace: Path, name: str, *arguments: str) -> str:
    shutil.copy(Path(__file__).with_name(name), workspace)
    done = job(["python", name, *arguments], workspace)
    assert done.status == 0, done.stderr
    return str(done.stdout)


def test_weights_alone_answer_everywhere(job, workspace: Path) -> None:
    done = quantize(job, workspace, "--set", "quant_type=weight_only_int8")
    assert "perplexity" in done.stderr
    folder = workspace / "models" / "q"
    before = load_file(workspace / "models" / "tiny" / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    scales = json.loads((folder / "weight_scales.json").read_text())
    assert set(after) == set(before)
    assert len(scales) == 2 * 7
    for name, values in after.items():
        scale = scales.get(f"{name.removesuffix('.weight')}.weight_quanter")
        if scale is None:
            np.testing.assert_array_equal(values, before[name])
            continue
        assert values.dtype == np.int8
        wrong = np.abs(values * (np.array(scale) / 127) - before[name])
        assert (wrong <= np.array(scale) / 127 / 2 * 1.001).all()
    told = report(workspace)
    assert told["calibration"] is None
    assert told["perplexity"]["ratio"] == pytest.approx(1, abs=0.01)
    assert told["bytes"]["after"] < told["bytes"]["before"] * 0.8
    assert len(told["products"]) == len(scales)
    assert all(0 < each["relative_error"] < 0.03 for each in told["products"])

    write_prompts(workspace / "in.jsonl")
    line = ["--input", "in.jsonl", "--max-new-tokens", "16"]
    wanted = infer(job, workspace, "--model", "q", *line).stdout
    exported = job(["export", "--static", "--model", "q", "--output", "exported/m"], workspace)
    assert exported.status == 0, exported.stderr
    found = infer(job, workspace, "--model", "exported/m", "--engine", "static", *line).stdout
    assert found == wanted
    with served(job, workspace, "--model", "q") as (running, url):
        prompt = json.loads((workspace / "in.jsonl").read_text().splitlines()[3])["prompt"]
        answer = client_of(url).chat.completions.create(
            model="q",
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=16,
        )
        end(running)
    (workspace / "out.jsonl").write_text(wanted)
    assert answer.choices[0].message.content == answers(workspace / "out.jsonl")[3]["text"]


@pytest.mark.parametrize(
    ("changes", "vectors", "caches"),
    [
        ((), 0, 0),
        (("--set", "quant_type=a8w8c8", "--set", "act_quant_method=abs_max"), 0, 4),
        (("--set", "quant_type=a8w8c8", *ALL), 10, 4),
        (ALL[:4], 4, 0),  # smoothing alone
    ],
)
def test_upstreams_reader_makes_the_same_of_it(
    job, workspace: Path, changes: tuple[str, ...], vectors: int, caches: int
) -> None:
    """The code that puts a checkpoint into the fused layers of a card, on the CPU."""
    quantize(job, workspace, *changes)
    told = json.loads(script(job, workspace, "upstream_scales.py", "models/q").splitlines()[-1])
    assert len(told["products"]) == 2 * 4
    assert max(told["products"]) < 1e-5
    assert len(told["vectors"]) == vectors
    assert all(same for layers in told["vectors"].values() for same in layers)
    assert len(told["caches"]) == caches
    assert max(told["caches"], default=0) < 1e-6
    # What a CPU computes of it is close to the model's own.
    assert report(workspace)["perplexity"]["ratio"] == pytest.approx(1, abs=0.01)


def test_shifting_and_smoothing_change_no_answer(job, workspace: Path) -> None:
    assert float(script(job, workspace, "prepared.py", "models/tiny")) < 1e-4


def test_smoothing_helps_against_outliers(job, workspace: Path) -> None:
    script(job, workspace, "outliers.py", "models/tiny", "models/outliers")
    quantize(job, workspace, model="outliers")
    plain = report(workspace)
    quantize(job, workspace, "--force", "--set", "smooth=true", model="outliers")
    smooth = report(workspace)
    assert plain["perplexity"]["before"] == pytest.approx(smooth["perplexity"]["before"])
    before, after = (
        {each["name"]: each["relative_error"] for each in told["products"]}
        for told in (plain, smooth)
    )
    for name, error in after.items():
        if "o_proj" not in name and "down_proj" not in name:
            assert error < before[name] / 2, name
    assert smooth["agreement"]["same_next_token"] > plain["agreement"]["same_next_token"]


def test_a_projection_that_is_skipped(job, workspace: Path) -> None:
    quantize(job, workspace, "--set", 'skip_list_names=["layers.1.mlp", "o_proj"]')
    before = load_file(workspace / "models" / "tiny" / "model.safetensors")
    after = load_file(workspace / "models" / "q" / "model.safetensors")
    for name, values in after.items():
        skipped = "_proj" not in name or "layers.1.mlp" in name or "o_proj" in name
        assert (values.dtype == np.int8) != skipped, name
        if skipped:
            np.testing.assert_array_equal(values, before[name])
    told = json.loads((workspace / "models" / "q" / "act_scales.json").read_text())
    assert not any("layers.1.mlp" in name or "o_proj" in name for name in told)
    infer(job, workspace, "--model", "q", "--prompt", "ka lo", "--max-new-tokens", "4")


def test_records_of_ones_own(job, workspace: Path) -> None:
    rows = [json.dumps({"src": f"ka lo {n}", "tgt": f"mi tu {n % 3}"}) for n in range(12)]
    for name, part in (("quant", rows[:6]), ("dev", rows[6:])):
        (workspace / "data" / f"{name}.json").write_text("\n".join(part) + "\n")
    quantize(job, workspace, "--set", "dataset_name_or_path=data")
    told = report(workspace)
    assert (told["calibration"]["rows"], told["held_out"]["rows"]) == (4, 6)
    assert told["calibration"]["source"] == "data/quant.json"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_ended_from_outside_it_leaves_nothing_under_the_name(job, workspace, signum) -> None:
    line = ["quantize", "--model", "tiny", "--output", "models/q", "--set", "ptq_step=4"]
    running = job.start(line, workspace, hold_at="== evaluate the model")
    running.wait_for("== evaluate the model")
    running.send(signum)
    assert running.wait().status == 128 + signum
    assert not (workspace / "models" / "q").exists()
    # What was begun is in nobody's way.
    quantize(job, workspace, "--set", "quant_type=wint8")


def test_what_is_refused_before_paddle_is_started(job, workspace: Path) -> None:
    quantize(job, workspace, "--set", "quant_type=wint8")
    there = quantize(job, workspace, status=2)
    again = quantize(job, workspace, "--force", status=2, model="q")
    other = quantize(job, workspace, "--force", status=2, model="tiny-qwen2")
    merged = job(
        ["export", "--model", "q", "--adapter", "x", "--merge", "--output", "models/y"], workspace
    )
    for done, what in (
        (there, "the output folder exists already"),
        (again, "is quantized"),
        (other, "a CPU quantizes LlamaForCausalLM"),
    ):
        assert what in done.stderr
        assert "start PaddlePaddle" not in done.stderr
    assert merged.status == 2
    record = json.dumps({"src": "ka", "tgt": "lo"})
    for split in ("train", "dev"):
        (workspace / "data" / f"{split}.json").write_text(record + "\n")
    config = {"model_name_or_path": "q", "dataset_name_or_path": "data", "max_steps": 1}
    (workspace / "my.json").write_text(json.dumps(config))
    trained = job(["finetune", "--config", "my.json"], workspace)
    assert trained.status == 2
    assert "is quantized" in trained.stderr


def test_a_damaged_model_is_named(job, workspace: Path) -> None:
    quantize(job, workspace)
    (workspace / "models" / "q" / "act_scales.json").write_text("{")
    done = infer(job, workspace, "--model", "q", "--prompt", "ka", status=2)
    assert "models/q/act_scales.json" in done.stderr
    assert "quantize the model again" in done.stderr


def test_a_real_model(job, smollm2: Path) -> None:
    """Weights alone cost next to nothing; activations cost less when they are smoothed."""
    line = ("--set", "max_length=256", "--set", "max_evaluate_steps=1", "--set", "ptq_step=8")
    line += ("--set", "smooth_step=8", "--force")
    model = "smollm2-135m-instruct"
    told = []
    for changes in (("--set", "quant_type=a8w8"), ALL[:4], ("--set", "quant_type=wint8")):
        quantize(job, smollm2, *line, *changes, model=model)
        told.append(report(smollm2))
    plain, smooth, weights = (each["perplexity"]["ratio"] for each in told)
    assert 1 < smooth < plain
    assert weights == pytest.approx(1, abs=0.02)
    assert told[2]["bytes"]["after"] < 0.42 * told[2]["bytes"]["before"]
    assert told[2]["agreement"]["same_next_token"] > 0.95
    question = ["--model", "q", "--prompt", "What is the capital of France?"]
    done = infer(job, smollm2, *question, "--decode", "greedy", "--max-new-tokens", "32")
    assert "Paris" in done.stdout

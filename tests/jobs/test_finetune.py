"""The finetune job in a real container, on a Llama of two layers."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest

from paddle_stacks.jobs import schema
from tests.support.training import losses, metrics

SYLLABLES = ["ka", "lo", "mi", "tu", "ne", "sa", "ro", "vi", "be", "do", "fa", "gu"]
SETTINGS = {
    "model_name_or_path": "tiny",
    "dataset_name_or_path": "data/small",
    "src_length": 96,
    "max_length": 128,
    "per_device_train_batch_size": 4,
    "max_steps": 20,
    "learning_rate": 5e-3,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 6,
    "lora": True,
}


@pytest.fixture
def ready(workspace: Path) -> Path:
    """A workspace with data and a configuration; 30 records, so 8 steps are an epoch."""
    folder = workspace / "data" / "small"
    folder.mkdir()
    write_records(folder / "train.json", 30)
    write_records(folder / "dev.json", 6)
    configure(workspace)
    return workspace


def write_records(path: Path, count: int) -> None:
    lines = []
    for number in range(count):
        words = [SYLLABLES[(number * step) % 12] for step in range(1, 3 + number % 7)]
        record = {"src": f"{number} " + " ".join(words), "tgt": " ".join(reversed(words))}
        if number % 5 == 0:
            record = {"src": [record["src"], "lo?"], "tgt": [record["tgt"], "ka mi"]}
        lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + "\n")


def configure(workspace: Path, **changes: object) -> None:
    (workspace / "my.json").write_text(json.dumps(SETTINGS | changes))


def finetune(job, workspace: Path, *arguments: str):
    done = job(["finetune", "--config", "my.json", *arguments], workspace)
    assert not any(word in done.stderr for word in ("WARNING", "ERROR", "Traceback")), done.stderr
    assert done.stdout.startswith("runs/") if done.status == 0 else done.stdout == ""
    return done


def test_every_format_means_the_same(job, ready: Path) -> None:
    turns = [(f"{n} ka lo", f"lo ka {n}") for n in range(8)]
    formats = {
        "lines": "\n".join(json.dumps({"src": q, "tgt": a, "id": a}) for q, a in turns),
        "alpaca": json.dumps([{"instruction": q, "output": a} for q, a in turns], indent=1),
        "sharegpt": "\n".join(
            json.dumps(
                {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
            )
            for q, a in turns
        ),
        "messages": json.dumps(
            [
                {
                    "messages": [
                        {"role": "user", "content": q},
                        {"role": "assistant", "content": a},
                    ]
                }
                for q, a in turns
            ]
        ),
    }
    curves, logs = {}, {}
    configure(ready, max_steps=2)
    for name, text in formats.items():
        folder = ready / "data" / name
        folder.mkdir()
        (folder / "train.jsonl").write_text(text)
        done = finetune(job, ready, "--name", name, "--set", f"dataset_name_or_path=data/{name}")
        assert done.status == 0, done.stderr
        curves[name], logs[name] = losses(ready / "runs" / name), done.stderr
    assert curves["alpaca"] == curves["sharegpt"] == curves["messages"] == curves["lines"]
    assert 'the key "id" of 8 records has no effect' in logs["lines"]


def test_a_system_message_is_learned_from(job, ready: Path) -> None:
    folder = ready / "data" / "system"
    folder.mkdir()
    record = {"src": "ka lo", "tgt": "lo ka", "system": "tu ne"}
    configure(ready, dataset_name_or_path="data/system", max_steps=2)
    curves = []
    for name, each in (("with", record), ("without", {**record, "system": ""})):
        (folder / "train.json").write_text((json.dumps(each) + "\n") * 8)
        done = finetune(job, ready, "--name", name, "--set", "model_name_or_path=tiny-fast")
        assert done.status == 0, done.stderr
        curves.append(losses(ready / "runs" / name))
    assert curves[0] != curves[1]
    (folder / "train.json").write_text((json.dumps(record) + "\n") * 8)
    refused = finetune(job, ready, "--name", "refused")  # the template of "tiny" has none
    assert refused.status == 2
    assert "the model's chat template does not support system messages" in refused.stderr
    assert "train.json:1 and 7 more places" in refused.stderr


def test_lora_leaves_a_whole_run(job, ready: Path) -> None:
    configure(ready, do_eval=True, evaluation_strategy="steps", eval_steps=10, merge=True)
    done = finetune(job, ready, "--name", "one")
    assert done.status == 0, done.stderr
    run = ready / "runs" / "one"
    curve = losses(run)
    assert list(curve) == list(range(1, 21))
    assert curve[1] == pytest.approx(math.log(1000), abs=0.3)  # random weights know nothing
    assert curve[20] < curve[1] - 0.5
    evaluations = [entry for entry in metrics(run) if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [10, 20]
    assert evaluations[1]["eval_loss"] < evaluations[0]["eval_loss"]
    first = metrics(run)[0]
    assert first["tokens_per_second"] > 0
    assert first["memory_mib"] > 100
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "config.json").read_text())["learning_rate"] == 5e-3
    assert (run / "adapter" / "lora_config.json").is_file()
    assert not (run / "adapter" / "config.json").exists()
    assert (run / "merged" / "model.safetensors").is_file()
    assert sorted(p.name for p in run.glob("checkpoint-*")) == [
        "checkpoint-12",
        "checkpoint-18",
        "checkpoint-6",
    ]
    result = json.loads((run / "result.json").read_text())
    assert result["first_loss"] == curve[1]
    assert result["last_loss"] == curve[20]
    assert {path.stat().st_uid for path in run.rglob("*")} == {os.getuid()}


def test_full_finetuning_keeps_the_best_checkpoint(job, ready: Path) -> None:
    configure(
        ready,
        lora=False,
        learning_rate=0.05,  # so that it gets worse again
        max_steps=12,
        save_steps=3,
        evaluation_strategy="steps",
        eval_steps=3,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    done = finetune(job, ready, "--name", "full")
    assert done.status == 0, done.stderr
    run = ready / "runs" / "full"
    evaluated = {e["step"]: e["eval_loss"] for e in metrics(run) if "eval_loss" in e}
    best = min(evaluated, key=evaluated.__getitem__)
    left = {int(path.name.split("-")[1]) for path in run.glob("checkpoint-*")}
    assert left == {best, 12}
    assert json.loads((run / "result.json").read_text())["best_checkpoint"] == f"checkpoint-{best}"
    configure(ready, model_name_or_path="runs/full", lora=False, max_steps=1, learning_rate=1e-9)
    again = finetune(job, ready, "--name", "again", "--set", "evaluation_strategy=steps")
    assert again.status == 0, again.stderr
    loaded = [e["eval_loss"] for e in metrics(ready / "runs" / "again") if "eval_loss" in e]
    assert loaded == [pytest.approx(evaluated[best], abs=1e-4)]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(job, ready: Path) -> None:
    configure(
        ready,
        max_steps=80,
        save_steps=40,
        gradient_accumulation_steps=2,
        evaluation_strategy="epoch",
    )
    whole = finetune(job, ready, "--name", "whole")
    assert whole.status == 0, whole.stderr
    line = ["finetune", "--config", "my.json", "--name", "parts"]
    stopped = job.start(line, ready, hold_at="step 20/80")
    stopped.wait_for("step 20/80")
    stopped.send(signal.SIGTERM)
    end = stopped.wait()
    assert end.status == 128 + signal.SIGTERM, end.stderr
    assert "run the same command again to resume" in end.stderr
    run = ready / "runs" / "parts"
    last = max(losses(run))
    assert 20 <= last < 80
    assert (run / f"checkpoint-{last}" / "checkpoint.json").is_file()
    assert not (run / "adapter").exists()
    again = finetune(job, ready, "--name", "parts")
    assert again.status == 0, again.stderr
    assert f"step {last}\n" in again.stderr
    whole_run, parts = (
        [{k: e[k] for k in e if k not in ("tokens_per_second", "memory_mib")} for e in metrics(at)]
        for at in (ready / "runs" / "whole", run)
    )
    assert parts == whole_run  # losses, rates and evaluations, and each of them once


def test_a_killed_run_goes_on_from_the_last_whole_checkpoint(job, ready: Path) -> None:
    configure(ready, max_steps=60, save_steps=5, lora=False)
    line = ["finetune", "--config", "my.json", "--name", "killed"]
    killed = job.start(line, ready, hold_at="saved checkpoint-40")
    killed.wait_for("saved checkpoint-40")
    killed.send(signal.SIGKILL)
    killed.wait()
    run = ready / "runs" / "killed"
    half = run / ".saving" / "checkpoint-900"  # what a kill in the middle of a save leaves
    half.mkdir(parents=True, exist_ok=True)
    (half / "model_state.pdparams").write_bytes(b"half")
    by_step = sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    newest, second = by_step[-1], by_step[-2]
    with (newest / "optimizer.pdopt").open("r+b") as stream:
        stream.truncate(1000)
    again = job(["finetune", "--config", "my.json", "--name", "killed"], ready)
    assert again.status == 0, again.stderr
    assert f"{newest.name} is skipped: optimizer.pdopt has 1000 bytes" in again.stderr
    assert f"resuming from runs/killed/{second.name}" in again.stderr
    assert not (run / ".saving").exists()
    whole = finetune(job, ready, "--name", "whole")
    assert whole.status == 0, whole.stderr
    assert losses(run) == losses(ready / "runs" / "whole")


def test_two_jobs_do_not_write_to_one_run(job, ready: Path) -> None:
    configure(ready, max_steps=30, save_strategy="no")
    line = ["finetune", "--config", "my.json", "--name", "busy"]
    first = job.start(line, ready, hold_at="step 1/")
    first.wait_for("step 1/")
    second = job(line, ready)
    first.send(signal.SIGTERM)
    assert second.status == 2
    assert "another job is writing here: process" in second.stderr
    assert first.wait().status == 128 + signal.SIGTERM


def test_what_a_finished_run_does_when_started_again(job, ready: Path) -> None:
    configure(ready, max_steps=4)
    assert finetune(job, ready, "--name", "done").status == 0
    run = ready / "runs" / "done"
    before = (run / "adapter" / "lora_model_state.pdparams").stat().st_mtime_ns
    again = finetune(job, ready, "--name", "done")
    assert again.status == 0
    assert "is finished" in again.stderr
    assert (run / "adapter" / "lora_model_state.pdparams").stat().st_mtime_ns == before
    other = job(["finetune", "--config", "my.json", "--name", "done", "--set", "seed=7"], ready)
    assert other.status == 2
    assert '"seed" was 42 in this run, but is 7 now' in other.stderr
    longer = finetune(job, ready, "--name", "done", "--set", "max_steps=8")
    assert longer.status == 0, longer.stderr
    assert max(losses(run)) == 8
    over = finetune(job, ready, "--name", "done", "--resume", "never", "--set", "seed=7")
    assert over.status == 0, over.stderr
    assert list(losses(run)) == [1, 2, 3, 4]


def test_changed_data_is_not_resumed_on(job, ready: Path) -> None:
    configure(ready, max_steps=6)
    assert finetune(job, ready, "--name", "changed").status == 0
    write_records(ready / "data" / "small" / "train.json", 29)
    again = job(
        ["finetune", "--config", "my.json", "--name", "changed", "--set", "max_steps=9"], ready
    )
    assert again.status == 2
    assert "the training data has changed since this checkpoint" in again.stderr


@pytest.mark.parametrize("model", ["tiny", "tiny-bytes", "tiny-fast"])
def test_packing_works_with_every_tokenizer(job, ready: Path, model: str) -> None:
    configure(ready, model_name_or_path=model, max_steps=6)
    shutil.copy(Path(__file__).with_name("packed.py"), ready)
    same = job(["python", "packed.py", f"models/{model}", "data/small"], ready)
    assert same.status == 0, same.stderr
    assert json.loads(same.stdout)["largest_difference"] < 2e-5
    assert json.loads(same.stdout)["rows"] < 30
    done = finetune(job, ready, "--name", "packed", "--set", "zero_padding=true")
    assert done.status == 0, done.stderr
    assert "packed into" in done.stderr
    curve = losses(ready / "runs" / "packed")
    assert curve[6] < curve[1]


def test_labels_are_the_answers_alone(job, ready: Path) -> None:
    shutil.copy(Path(__file__).with_name("masked.py"), ready)
    for model in ("tiny", "tiny-bytes", "tiny-fast"):
        shown = job(["python", "masked.py", f"models/{model}"], ready)
        assert shown.status == 0, shown.stderr
        found = json.loads(shown.stdout)
        assert [text.strip() for text in found["labels"]] == ["mi tu</s>", "ka</s>"]
        assert "lo ne" in found["text"]
        assert found["cut"] == [False, True]


def test_several_turns_need_a_chat_template(job, ready: Path) -> None:
    configure(ready, model_name_or_path="tiny-plain")
    done = job(["finetune", "--config", "my.json", "--name", "plain"], ready)
    assert done.status == 2
    assert done.stderr.count("several turns") == 1, "equal faults are reported once"
    assert "places: 6, 11, 16, 21, 26" in done.stderr
    assert "data/small/train.json:1 and 5 more places" in done.stderr


def test_accumulation_and_recompute_do_not_change_the_losses(job, ready: Path) -> None:
    configure(ready, max_steps=5, per_device_train_batch_size=30)
    assert finetune(job, ready, "--name", "reference").status == 0
    configure(
        ready,
        max_steps=5,
        per_device_train_batch_size=15,
        gradient_accumulation_steps=2,
        recompute=True,
        unified_checkpoint=True,  # as every configuration of upstream's has it
    )
    done = finetune(job, ready, "--name", "parts")
    assert done.status == 0, done.stderr
    assert "no effect here: unified_checkpoint" in done.stderr
    reference, parts = (losses(ready / "runs" / name) for name in ("reference", "parts"))
    assert list(parts) == [1, 2, 3, 4, 5]
    # Means of two halves weigh their tokens a little differently than the mean of the whole.
    assert parts == pytest.approx(reference, rel=0.02)


def test_a_loss_that_is_no_number_is_a_failed_job(job, ready: Path) -> None:
    configure(ready, learning_rate=1e30, max_grad_norm=0, lora=False)
    done = job(["finetune", "--config", "my.json", "--name", "hot"], ready)
    assert done.status == 5, done.stderr
    assert "the loss is not finite" in done.stderr
    assert 'reduce "learning_rate"' in done.stderr


def test_noise_and_other_kinds_of_lora_run(job, ready: Path) -> None:
    curves = {}
    for name, changes in {
        "as it comes": {},
        "slow": {"use_quick_lora": False},
        "noise": {"neftune": True},
        "other": {"rslora": True, "lora_plus_scale": 4.0},
    }.items():
        configure(ready, max_steps=6, **changes)
        done = finetune(job, ready, "--name", name)
        assert done.status == 0, done.stderr
        curves[name] = losses(ready / "runs" / name)
        assert curves[name][6] < curves[name][1]
    assert curves["slow"] == pytest.approx(curves["as it comes"], abs=1e-5)
    assert abs(curves["noise"][1] - curves["slow"][1]) > 1e-5
    assert abs(curves["other"][6] - curves["slow"][6]) > 1e-3


def test_an_adapter_is_where_another_one_begins(job, ready: Path) -> None:
    assert finetune(job, ready, "--name", "first").status == 0
    done = finetune(job, ready, "--name", "second", "--set", "lora_path=first")
    assert done.status == 0, done.stderr
    first, second = (losses(ready / "runs" / name) for name in ("first", "second"))
    assert second[1] < first[1] - 0.3


def test_a_run_that_cannot_be_written(job, ready: Path) -> None:
    (ready / "runs").mkdir(mode=0o500)
    if os.getuid() == 0:  # without capabilities, another's folder is closed to root as well
        os.chown(ready / "runs", 4242, 4242)
    done = job(["finetune", "--config", "my.json", "--name", "x"], ready)
    assert done.status == 3
    assert "cannot write: Permission denied" in done.stderr


def test_bad_requests_are_answered_before_anything_is_loaded(job, ready: Path) -> None:
    configure(ready, model_name_or_path="tinny", bf16=True, fp16_opt_level="O2", lerning_rate=1)
    done = job(["finetune", "--config", "my.json"], ready)
    assert done.status == 2
    assert 'did you mean "learning_rate"?' in done.stderr
    assert "--set bf16=false --set fp16_opt_level=O1" in done.stderr
    configure(ready, model_name_or_path="tinny")
    done = job(["finetune", "--config", "my.json"], ready)
    assert done.status == 2
    assert 'did you mean "tiny"?' in done.stderr
    configure(ready)
    (ready / "data" / "small" / "train.json").write_text('{"src": "a"}\n{"src": "a", "tgt": " "}\n')
    done = job(["finetune", "--config", "my.json"], ready)
    assert done.status == 2
    assert "data/small/train.json:1" in done.stderr
    assert "data/small/train.json:2" in done.stderr
    assert not (ready / "runs").exists()


def test_the_schema_has_every_key_that_upstream_has(job, ready: Path) -> None:
    shutil.copy(Path(__file__).with_name("upstream_keys.py"), ready)
    shown = job(["python", "upstream_keys.py"], ready)
    assert shown.status == 0, shown.stderr
    upstream = json.loads(shown.stdout)
    assert len(upstream) > 150
    assert set(upstream) <= set(schema.SCHEMAS["finetune"].keys), set(upstream) - set(
        schema.SCHEMAS["finetune"].keys
    )
    ours = {"do_train", "device", "use_quick_lora"}  # keys.py says why
    ours |= {"tensor_parallel_output"}  # llm/utils/argument.py overrides the package's default
    other = {
        name: (default, schema.SCHEMAS["finetune"].keys[name].default)
        for name, default in upstream.items()
        if default != "?"
        and name not in ours
        and default != schema.SCHEMAS["finetune"].keys[name].default
    }
    assert other == {}


def test_export_merges_exactly(job, ready: Path) -> None:
    assert finetune(job, ready, "--name", "adapted").status == 0
    shutil.copy(Path(__file__).with_name("same_logits.py"), ready)
    export = ["export", "--model", "tiny", "--adapter", "adapted", "--merge", "--output"]
    done = job([*export, "models/merged"], ready)
    assert done.status == 0, done.stderr
    assert done.stdout == "models/merged\n"
    assert "WARNING" not in done.stderr
    compared = job(
        ["python", "same_logits.py", "models/tiny", "runs/adapted/adapter", "models/merged"], ready
    )
    assert compared.status == 0, compared.stderr
    numbers = json.loads(compared.stdout)
    assert numbers["unmerged_to_merged"] < 1e-5
    assert numbers["base_to_merged"] > 1e-2
    assert (ready / "models" / "merged" / "chat_template.json").is_file()
    refused = job([*export, "models/merged"], ready)
    assert refused.status == 2
    assert "--force replaces it" in refused.stderr
    assert job([*export, "models/merged", "--force"], ready).status == 0
    export[2] = "tiny-plain"
    (ready / "models" / "tiny-plain" / "model.safetensors").unlink()
    shutil.copy(
        ready / "models" / "merged" / "model.safetensors",
        ready / "models" / "tiny-plain" / "model.safetensors",
    )
    other = job([*export, "models/wrong"], ready)
    assert other.status == 2
    words = "the adapter was trained on tiny, but the weights of models/tiny-plain differ"
    assert words in other.stderr
    assert not (ready / "models" / "wrong").exists()


def test_the_cheaper_kernels_give_the_same_loss_and_gradients(job, ready: Path) -> None:
    shutil.copy(Path(__file__).with_name("same_kernels.py"), ready)
    done = job(["python", "same_kernels.py", "models/tiny"], ready)
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["replaced"]
    assert found["same_names"]
    assert found["gradients"] > 10
    assert found["loss"] < 1e-5
    assert found["largest"] < 1e-5

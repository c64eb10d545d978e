"""The fine-tuning configuration: what is taken, and what is said about what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddle_stacks.errors import RequestError, render
from paddle_stacks.jobs import schema

GOOD = {"model_name_or_path": "m", "dataset_name_or_path": "d"}

# PaddleNLP v3.0.0-beta3, llm/config/llama/lora_argument.json
STOCK_LORA = {
    "model_name_or_path": "meta-llama/Meta-Llama-3-8B",
    "dataset_name_or_path": "./data",
    "output_dir": "./checkpoints/lora_ckpts",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "per_device_eval_batch_size": 8,
    "eval_accumulation_steps": 16,
    "num_train_epochs": 3,
    "learning_rate": 3e-04,
    "warmup_steps": 30,
    "logging_steps": 1,
    "evaluation_strategy": "epoch",
    "save_strategy": "epoch",
    "src_length": 1024,
    "max_length": 2048,
    "bf16": True,
    "fp16_opt_level": "O2",
    "do_train": True,
    "do_eval": True,
    "disable_tqdm": True,
    "load_best_model_at_end": True,
    "eval_with_do_generation": False,
    "metric_for_best_model": "accuracy",
    "recompute": True,
    "save_total_limit": 1,
    "tensor_parallel_degree": 1,
    "pipeline_parallel_degree": 1,
    "sharding": "stage1",
    "lora": True,
    "zero_padding": False,
    "use_flash_attention": True,
    "unified_checkpoint": True,
    "pissa": False,
}


def write(folder: Path, entries: object) -> Path:
    path = folder / "my.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries, indent=1))
    return path


def complaint(path: Path, *overrides: str, backend: str = "cpu") -> str:
    with pytest.raises(RequestError) as caught:
        schema.load(path, overrides, backend=backend)
    return render(caught.value)


def test_defaults_are_resolved(tmp_path: Path) -> None:
    config = schema.load(write(tmp_path, GOOD))
    assert config["learning_rate"] == 5e-5
    assert config["device"] == "cpu"
    assert config["do_train"] is True
    assert config.explicit == {"model_name_or_path", "dataset_name_or_path"}
    assert set(config.values) == set(schema.SCHEMAS["finetune"].keys)


def test_later_overrides_win_and_are_json_or_text(tmp_path: Path) -> None:
    config = schema.load(
        write(tmp_path, GOOD | {"learning_rate": 1}),
        ["learning_rate=1e-4", "learning_rate=2e-4", "lora=true", "output_dir=runs/x y"],
    )
    assert config["learning_rate"] == 2e-4
    assert config["lora"] is True
    assert config["output_dir"] == "runs/x y"


def test_to_json_comes_back_the_same(tmp_path: Path) -> None:
    first = schema.load(write(tmp_path, GOOD | {"lora": True, "evaluation_strategy": "steps"}))
    second = schema.load(write(tmp_path, first.to_json()))
    assert dict(second.values) == dict(first.values)
    assert second.to_json() == first.to_json()


def test_a_whole_number_is_a_number_and_three_point_nought_a_whole_one(tmp_path: Path) -> None:
    config = schema.load(write(tmp_path, GOOD | {"learning_rate": 1, "max_steps": 3.0}))
    assert isinstance(config["learning_rate"], float)
    assert (config["max_steps"], type(config["max_steps"])) == (3, int)


def test_upstreams_own_configuration_says_what_a_cpu_wants(tmp_path: Path) -> None:
    text = complaint(write(tmp_path, STOCK_LORA))
    assert (
        "on a CPU add: --set bf16=false --set fp16_opt_level=O1 --set use_flash_attention=false"
        in text
    )
    assert f"{tmp_path / 'my.json'}:17" in text  # where bf16 stands
    config = schema.load(
        write(tmp_path, STOCK_LORA),
        ["bf16=false", "fp16_opt_level=O1", "use_flash_attention=false"],
    )
    assert config["lora"] is True
    assert any("tensor_parallel_degree" in note for note in config.notes)


def test_upstreams_own_configuration_is_right_on_an_accelerator(tmp_path: Path) -> None:
    config = schema.load(write(tmp_path, STOCK_LORA), backend="dcu")
    assert config["device"] == "gpu"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"eval_step": 1}, ['"eval_step" is called "eval_steps"']),
        ({"save_step": 1}, ['"save_step" is called "save_steps"']),
        ({"intokens": True}, ['"intokens" is called "zero_padding"']),
        ({"evaluation_stategy": "no"}, ['is called "evaluation_strategy"']),
        ({"lerning_rate": 1}, ['unknown key "lerning_rate"', 'did you mean "learning_rate"?']),
        ({"qqqqq": 1}, ['unknown key "qqqqq"', "remove it"]),
        ({"learning_rate": "1e-4"}, ["must be a number", 'no quotes: "learning_rate": 1e-4']),
        ({"learning_rate": "fast"}, ['must be a number, not "fast"']),
        ({"learning_rate": 0}, ["must be greater than 0, not 0.0"]),
        ({"lora_rank": True}, ["must be a whole number, not true"]),
        ({"lora_rank": 1.5}, ["must be a whole number, not 1.5"]),
        ({"lora_rank": 0}, ["must be at least 1, not 0"]),
        ({"lora": 1}, ["must be true or false, not 1", 'write "lora": true']),
        ({"lora": "True"}, ['not "True"', "lower case and without quotes"]),
        ({"lora": None}, ["must be true or false, not null"]),
        ({"warmup_ratio": 2}, ["must be in 0 … 1"]),
        ({"adam_beta1": 1}, ["must be at least 0 and less than 1"]),
        ({"lr_scheduler_type": "cosin"}, ['did you mean "cosine"?', '"polynomial"']),
        ({"metric_for_best_model": "bleu"}, ['one of "loss", "accuracy"']),
        ({"model_name_or_path": None}, ['"model_name_or_path" is missing']),
        ({"do_train": False}, ["this job trains"]),
        ({"max_steps": 0}, ["there is nothing to train"]),
        ({"src_length": 2048}, ["leaves no room for an answer"]),
        ({"merge": True}, ['"merge" requires "lora"']),
        ({"greedy_zero_padding": True}, ['"greedy_zero_padding" requires "zero_padding"']),
        ({"prefix_tuning": True}, ["is not supported by this job"]),
        ({"pissa": True, "lora": True}, ['"pissa" is not supported']),
        ({"eval_with_do_generation": True}, ["the infer job generates"]),
        ({"do_eval": True, "evaluation_strategy": "no"}, ["at every logging step"]),
        ({"load_best_model_at_end": True}, ['set both to "epoch"']),
        (
            {"load_best_model_at_end": True, "evaluation_strategy": "steps", "eval_steps": 3},
            ['"save_steps" (500) to be a multiple of "eval_steps" (3)'],
        ),
        ({"fp16": True, "bf16": True}, ['"fp16" and "bf16" exclude each other']),
        ({"fp16_opt_level": "O2"}, ['"O2" requires "fp16" or "bf16"']),
        ({"device": "gpu"}, ['a CPU build does not support "gpu"', "--set device=cpu"]),
        ({"use_fused_rms_norm": True}, ["requires an accelerator"]),
        ({"weight_quantize_algo": "nf4"}, ['"weight_quantize_algo" cannot be "nf4"']),
        ({"wandb_api_key": "x"}, ["a secret does not belong"]),
        ({"seed": 2**32}, ["must be in 0 … 4294967295"]),
    ],
)
def test_what_is_said_about_a_fault(tmp_path: Path, entries: dict, words: list[str]) -> None:
    text = complaint(write(tmp_path, GOOD | entries))
    for word in words:
        assert word in text
    if set(entries) & set(schema.SCHEMAS["finetune"].keys) and None not in entries.values():
        assert "my.json:" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["not JSON", "the file is empty"]),
        ('{"lora": true,}', [":1:", "remove the comma"]),
        ('{"lora": True}', ["true, false or null"]),
        ("{'lora': 1}", ["use double quotes"]),
        ('{\n  // no\n  "lora": true}', [":2:3", "remove the comment"]),
        ("[1]", ["one JSON object, got a list"]),
        ('"x"', ["got a string"]),
        ('{"lora": true,\n "lora": false}', ['"lora" is set twice (lines 1 and 2)', ":2"]),
        ('{"learning_rate": NaN}', ["NaN is not a JSON value"]),
        ("[" * 100_000, ["nested too deeply"]),
    ],
)
def test_a_file_that_is_not_a_configuration(tmp_path: Path, content: str, words: list[str]) -> None:
    text = complaint(write(tmp_path, content))
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"lora":\n \0true}', "my.json:2"),
        (b'{"a":\n "\xff"}', "not UTF-8: byte 0xff"),
        (b" " * (10 * 1024 * 1024), "at most 1024 KiB"),
    ],
)
def test_bytes_that_are_not_a_configuration(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "my.json"
    path.write_bytes(content)
    assert word in complaint(path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    assert "the configuration does not exist" in complaint(tmp_path / "none.json")
    assert "cannot be read: Is a directory" in complaint(tmp_path)


def test_an_override_without_an_equals_sign(tmp_path: Path) -> None:
    assert '"lora" is not KEY=VALUE' in complaint(write(tmp_path, GOOD), "lora")
    assert "--set nope" in complaint(write(tmp_path, GOOD), "nope=1")


def test_all_faults_come_at_once_and_none_twice(tmp_path: Path) -> None:
    entries = {"model_name_or_path": 5, "nope": 1, "lora_rank": 0, "max_steps": 0, "device": "gpu"}
    text = complaint(write(tmp_path, entries))
    assert text.count("error:") == 6
    assert text.count("model_name_or_path") == 1


def test_an_override_takes_the_place_of_a_fault_in_the_file(tmp_path: Path) -> None:
    config = schema.load(write(tmp_path, GOOD | {"lora_rank": "x"}), ["lora_rank=4"])
    assert config["lora_rank"] == 4


def test_every_key_has_a_default_that_is_right() -> None:
    for key in schema.SCHEMAS["finetune"].keys.values():
        if key.default is not None and key.kind is not object:
            assert type(key.default) is key.kind, key.name
        assert not (key.refused and key.inert), key.name


def test_what_follows_from_other_keys_is_said(tmp_path: Path) -> None:
    config = schema.load(write(tmp_path, GOOD | {"do_eval": False, "evaluation_strategy": "steps"}))
    assert config["do_eval"] is True
    assert config["eval_steps"] == config["logging_steps"]
    assert any("evaluating although" in note for note in config.notes)
    assert any('"eval_steps" is not set' in note for note in config.notes)


def test_the_configurations_of_the_repository_are_right() -> None:
    folder = Path(__file__).parents[2] / "configs" / "jobs" / "cpu"
    found = sorted(folder.glob("finetune-*.json"))
    assert found
    for path in found:
        assert schema.load(path).notes == ()


@pytest.mark.parametrize(
    ("backend", "device"), [("cpu", "cpu"), ("dcu", "gpu"), ("dcu-sim", "cpu")]
)
def test_the_device_is_what_the_platform_computes_on(
    tmp_path: Path, backend: str, device: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(GOOD))
    assert schema.load(path, backend=backend)["device"] == device
    half = ["fp16=true", "fp16_opt_level=O2", "use_flash_attention=true"]
    if device == "gpu":
        assert schema.load(path, half, backend=backend)["fp16"]
        return
    with pytest.raises(RequestError) as caught:
        schema.load(path, half, backend=backend)
    assert len(caught.value.problems) == 4, "a simulated DCU computes on the CPU"


@pytest.mark.parametrize("device", ["dcu", "npu"])
def test_a_dcu_is_a_gpu_to_paddle(tmp_path: Path, device: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**GOOD, "device": device}))
    with pytest.raises(RequestError) as caught:
        schema.load(path, backend="dcu")
    assert "device=gpu" in caught.value.problems[0].remedy
    assert schema.load(path, ["device=gpu:1"], backend="dcu")["device"] == "gpu:1"

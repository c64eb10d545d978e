"""The documents' wrong flags: each gets the right one, before anything is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.arguments import parser
from paddle_stacks.jobs.upstream import faults, options

ROOT = Path(__file__).parents[2]


def told(*words: str, script: str = "predict/predictor.py", declared: bool = True) -> list[str]:
    found = options(script, words, lambda _: None)
    problems = faults(found, words, world=1, declares=lambda _: declared)
    return [f"{p.what} | {p.remedy}" for p in problems]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--inference_mode", "dynamic"], "write --mode dynamic"),
        (["--inference_mode=static"], "write --mode static"),
        (["--cachekv_int8"], "write --cachekv_int8_type static|dynamic"),
        (["---cachekv_int8"], "write --cachekv_int8_type static|dynamic"),
        (["--cachekv_int8", "dynamic"], "no longer maintained"),
        (["--cachekv_int8_type"], "must be static or dynamic"),
        (["--cachekv_int8_type", "int8"], "must be static or dynamic, got int8"),
        (["--mode", "fast"], "must be static or dynamic"),
        (["---block_attn"], "write --block_attn"),
    ],
)
def test_a_wrong_flag_of_inference(words: list[str], said: str) -> None:
    found = told("--dtype", "float16", *words)
    assert len(found) == 1 and said in found[0], found


@pytest.mark.parametrize(
    "words",
    [
        ["--block_attn", "false"],
        ["--block_attn"],
        ["--inference_model", "--mode", "static", "--quant_type", "a8w8"],
        ["--cachekv_int8_type", "static", "--benchmark"],
        ["--temperature", "-1"],
    ],
)
def test_a_right_flag_passes(words: list[str]) -> None:
    assert told("--dtype", "float16", *words) == []


@pytest.mark.parametrize("flag", ["--append_attn", "--total_max_length"])
def test_a_flag_of_later_versions(flag: str) -> None:
    words = ("--dtype", "float16", flag, "4096")
    assert told(*words, declared=True) == []
    assert "remove it" in told(*words, declared=False)[0]


@pytest.mark.parametrize(
    ("flag", "right"),
    [("--eval_step", "--eval_steps"), ("--save_step", "--save_steps"), ("--intokens", "--zero_p")],
)
def test_a_wrong_flag_of_training(flag: str, right: str) -> None:
    assert f"write {right}" in told(flag, "5", script="run_finetune.py")[0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--gpus", "0,1,2,3,4,5,6,7", "run_pretrain.py"], "write --ranks 8"),
        (["--gpus='0,1'", "run_pretrain.py"], "write --ranks 2"),
        (["--devices", "0,1", "run_pretrain.py"], "./inv JOB --devices"),
        (["--nproc_per_node", "4", "run_pretrain.py"], "write --ranks 4"),
        (["-m", "paddle.distributed.launch", "--gpus", "0,1", "run_pretrain.py"], "--ranks N"),
        (["--log_dir", "log", "run_pretrain.py"], "--name NAME"),
        (["python3", "./predict/predictor.py"], "give the script itself"),
        (["PYTHONPATH=..", "python", "run_finetune.py"], "give the script itself"),
        (["legacy/model_zoo/gpt-3/external_ops/setup.py", "install"], "./inv build"),
        (["slm/model_zoo/gpt-3/external_ops/setup.py", "install"], "./inv build"),
        (["setup_hip.py", "install"], "./inv build"),
    ],
)
def test_what_is_no_script(line: list[str], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        parser("upstream").parse_args(line)
    assert said in caught.value.problems[0].remedy


@pytest.mark.parametrize(
    ("job", "flag", "said"),
    [
        ("infer", "--model_name_or_path", "write --model"),
        ("infer", "--lora_path", "write --adapter"),
        ("infer", "--max_length", "write --max-new-tokens"),
        ("infer", "--data_file", "write --input"),
        ("infer", "--inference_mode", "--mode VALUE is an option of upstream's"),
        ("infer", "--block_attn", "./inv recipes --backend dcu"),
        ("infer", "--cachekv_int8", "--cachekv_int8_type static|dynamic"),
        ("export", "--output_path", "write --output"),
        ("export", "--inference_model", "predict/export_model.py"),
    ],
)
def test_upstreams_flags_in_jobs_of_ours(job: str, flag: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        parser(job).parse_args([flag, "x"])
    assert said in caught.value.problems[0].remedy


@pytest.mark.parametrize("words", [("infer",), ("plan", "infer")])
def test_they_are_told_on_the_host_too(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", *words, "--inference_mode", "dynamic"],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--mode VALUE" in done.stderr

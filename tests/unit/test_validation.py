"""The host and the container refuse the same options, with the same words."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from entrypoints.runtime import arguments
from paddle_stacks import launch
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.options import OPTIONS
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
INFER = ["infer", "--model", "m"]
ASK = [*INFER, "--prompt", "x"]
SERVE = ["serve", "--model", "m"]
TUNE = ["finetune", "--config", "configs/jobs/cpu/finetune-lora.json"]
PRETRAIN = ["pretrain", "--config", "configs/jobs/cpu/pretrain-demo.json"]
EXPORT = ["export", "--model", "m", "--output", "models/o"]

WRONG = [
    INFER,
    [*ASK, "--chat"],
    [*ASK, "--output", "o"],
    [*ASK, "--logprobs", "1"],
    [*ASK, "--raw", "--system", "s"],
    [*ASK, "--decode", "greedy", "--top-k", "2"],
    [*ASK, "--temperature", "0"],
    [*ASK, "--top-p", "2"],
    [*ASK, "--top-k", "-1"],
    [*ASK, "--seed", "-1"],
    [*ASK, "--stop", ""],
    [*ASK, "--batch-size", "0"],
    [*ASK, "--batch-size", "two"],
    [*ASK, "--max-new-tokens", "0"],
    [*ASK, "--engine", "fused"],
    [*ASK, "--engine", "static", "--adapter", "a"],
    [*ASK, "--dtype", "float16"],
    [*INFER, "--benchmark", "--rounds", "0"],
    [*SERVE, "--port", "80000"],
    [*SERVE, "--port", "-1"],
    [*SERVE, "--host", "example.org"],
    [*SERVE, "--host", "0.0.0.0"],
    [*SERVE, "--batch-size", "0"],
    [*SERVE, "--grace", "-1"],
    [*SERVE, "--request-timeout", "soon"],
    [*SERVE, "--served-model-name", "a b"],
    [*SERVE, "--dtype", "float16"],
    [*TUNE, "--name", "../x"],
    [*TUNE, "--name", ""],
    [*TUNE, "--name", ".x"],
    [*TUNE, "--name", "a\nb"],
    [*TUNE, "--grace", "-1"],
    [*TUNE, "--ranks", "0"],
    [*PRETRAIN, "--name", "a/b"],
    [*PRETRAIN, "--peak-tflops", "0"],
    EXPORT,
    [*EXPORT, "--merge"],
    ["inspect", "data/c", "--samples", "-1"],
    ["prepare", "--input", "i", "--output", "o", "--model", "m", "--workers", "0"],
]


@pytest.mark.parametrize("argv", WRONG, ids=" ".join)
def test_host_and_container_refuse_the_same(argv: list[str]) -> None:
    job, *line = argv
    with pytest.raises(RequestError) as by_host:
        launch.make_plan(job, line, Settings(root=ROOT, workspace=ROOT))
    if argv == [*SERVE, "--host", "0.0.0.0"]:
        return  # the container knows from --published who can reach it
    with pytest.raises(RequestError) as by_container:
        arguments.parse(OPTIONS[job], line)
    assert by_host.value.problems == by_container.value.problems
    for problem in by_host.value.problems:
        assert problem.what and problem.remedy


@pytest.mark.parametrize(
    "line",
    [
        ["--nnodes", "2"],
        ["--nnodes", "2", "--master", "h:0", "--rank", "0"],
        ["--nnodes", "2", "--master", "h:70000", "--rank", "0"],
        ["--nnodes", "2", "--master", "h:1", "--rank", "2"],
        ["--rank", "1"],
    ],
    ids=" ".join,
)
def test_the_host_checks_the_options_about_nodes(line: list[str]) -> None:
    job, *config = PRETRAIN
    with pytest.raises(RequestError):
        launch.make_plan(job, [*config, *line], Settings(root=ROOT, workspace=ROOT))


def test_a_port_out_of_range_is_a_wrong_request() -> None:
    done = subprocess.run(
        ["./inv", "serve", "--model", "m", "--port", "80000"],
        cwd=ROOT,
        env={**os.environ, "PADDLE_STACKS_BACKEND": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.endswith(
        "error: --port must be in 0 … 65535, got 80000\n"
        "   at: serve\n"
        "  fix: --port N, with N in 0 … 65535\n"
    )


def test_a_published_port_is_a_certain_one() -> None:
    with pytest.raises(RequestError, match="--port must be in 1 … 65535, got 0"):
        launch.make_plan("serve", [*SERVE[1:], "--port", "0"], Settings(root=ROOT, workspace=ROOT))

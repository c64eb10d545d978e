"""What is found to be wrong before a container starts."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
from pathlib import Path

import pytest

from paddle_stacks import preflight
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.jobs.arguments import parser
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Backend, Plan, make
from paddle_stacks.settings import Settings


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a model, data and a configuration, in which the person is."""
    for name, text in (
        ("models/m/config.json", "{}"),
        ("data/d/train.json", '{"src": "a", "tgt": "b"}\n'),
        ("my.json", json.dumps({"model_name_or_path": "m", "dataset_name_or_path": "data/d"})),
        ("in.jsonl", '{"id": 1, "prompt": "hello"}\n'),
        ("runs/a/adapter/lora_config.json", "{}"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def request(workspace: Path, job: str, *line: str) -> tuple[Plan, argparse.Namespace]:
    settings = Settings(root=workspace, workspace=workspace)
    user = f"{os.geteuid()}:{os.getegid()}"
    plan = make(JOBS[job], line, settings, Backend("cpu", ""), user=user, suffix="x")
    return plan, parser(job).parse_args(line)


@pytest.mark.parametrize(
    ("job", "line"),
    [
        ("finetune", ["--config", "my.json"]),
        ("infer", ["--model", "m", "--adapter", "a", "--input", "in.jsonl"]),
        ("infer", ["--model", "models/m", "--input", "-"]),
        ("export", ["--model", "m", "--adapter", "runs/a", "--output", "models/o"]),
        ("fetch", ["anything", "--from", "huggingface:org/name"]),
    ],
)
def test_a_right_request_passes(workspace: Path, job: str, line: list[str]) -> None:
    plan, arguments = request(workspace, job, *line)
    preflight.check_request(plan, arguments)
    preflight.check_workspace(plan)


@pytest.mark.parametrize(
    ("job", "line", "faults"),
    [
        (
            "finetune",
            ["--config", "my.json", "--set", "model_name_or_path=x", "--set", "dev=1"],
            ['unknown key "dev"'],
        ),
        (
            "finetune",
            [
                *("--config", "my.json", "--set", "model_name_or_path=x"),
                *("--set", "dataset_name_or_path=data/e"),
            ],
            ['no model "x"', "there is no such data folder"],
        ),
        (
            "infer",
            ["--model", "x", "--adapter", "b", "--input", "my.json"],
            ['no model "x"', 'no run "b"', 'unknown key "model_name_or_path"'],
        ),
        ("fetch", ["anything"], ['no model is known as "anything"']),
        ("infer", ["--model", "m", "--input", "gone.jsonl"], ["cannot read the prompts"]),
        ("export", ["--model", "x", "--adapter", "b", "--output", "o"], ['"x"', 'no run "b"']),
    ],
)
def test_all_faults_are_told_at_once(
    workspace: Path, job: str, line: list[str], faults: list[str]
) -> None:
    with pytest.raises(RequestError) as caught:
        preflight.check_request(*request(workspace, job, *line))
    assert len(caught.value.problems) == len(faults)
    for problem, words in zip(caught.value.problems, faults, strict=True):
        assert words in problem.what
        assert not problem.where.startswith("/"), "a place is named as the person named it"


def test_a_busy_run_is_refused(workspace: Path) -> None:
    lock = workspace / "runs" / "my" / ".lock"
    lock.parent.mkdir()
    lock.write_text("process 7 on host")
    plan, arguments = request(workspace, "finetune", "--config", "my.json")
    preflight.check_request(plan, arguments)  # a lock that nobody holds is no lock
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="process 7 on host") as caught:
            preflight.check_request(plan, arguments)
    assert caught.value.problems[0].where == "runs/my"


def test_somebody_elses_folder_is_refused(workspace: Path) -> None:
    (workspace / "models").chmod(0o555)
    plan = make(
        JOBS["fetch"],
        [],
        Settings(root=workspace, workspace=workspace),
        Backend("cpu", ""),
        user="54321:54321",
        suffix="x",
    )
    with pytest.raises(MachineError) as caught:
        preflight.check_workspace(plan)
    assert [p.where for p in caught.value.problems][-1] == str(workspace / "runs")
    assert caught.value.problems[-1].remedy == f"sudo chown -R 54321:54321 {workspace / 'runs'}"


def test_a_full_disk_is_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_LEAST_FREE_BYTES", 2**80)
    plan, _ = request(workspace, "fetch", "x")
    with pytest.raises(MachineError, match="nearly full"):
        preflight.check_workspace(plan)
    preflight.check_workspace(request(workspace, "infer", "--model", "m")[0])


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ([], "runs/my"),
        (["--set", "output_dir=runs/o"], "runs/o"),
        (["--set", "output_dir=runs/o", "--name", "n"], "runs/n"),
    ],
)
def test_the_run_folder(workspace: Path, line: list[str], folder: str) -> None:
    from paddle_stacks.jobs import schema

    arguments = parser("finetune").parse_args(["--config", "my.json", *line])
    config = schema.load(arguments.config, arguments.set)
    assert preflight.run_folder(arguments, config) == Path(folder)

"""What is found to be wrong before a container starts."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from paddle_stacks import preflight
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.jobs import texts
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Backend, Plan, make
from paddle_stacks.request import from_words
from paddle_stacks.settings import Settings


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a model, data and a configuration, in which the person is."""
    for name, text in (
        ("models/m/config.json", "{}"),
        ("models/m/model.safetensors", ""),
        ("models/bare/config.json", "{}"),
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


def planned(workspace: Path, job: str, *line: str) -> Plan:
    settings = Settings(root=workspace, workspace=workspace)
    user = f"{os.geteuid()}:{os.getegid()}"
    request = from_words(job, line, workspace, "cpu")
    plan = make(JOBS[job], line, settings, Backend("cpu", ""), user=user, suffix="x")
    return replace(plan, request=request)


@pytest.mark.parametrize(
    ("job", "line"),
    [
        ("finetune", ["--config", "my.json"]),
        ("infer", ["--model", "m", "--adapter", "a", "--input", "in.jsonl"]),
        ("infer", ["--model", "models/m", "--input", "-"]),
        ("export", ["--model", "m", "--adapter", "runs/a", "--output", "models/o", "--merge"]),
        ("fetch", ["anything", "--from", "huggingface:org/name"]),
        ("fetch", ["llama-nano"]),
        ("fetch", ["llama-nano", "--from", "scratch:in.jsonl"]),
        ("prepare", ["--input", "in.jsonl", "--output", "data/x", "--model", "bare"]),
    ],
)
def test_a_right_request_passes(workspace: Path, job: str, line: list[str]) -> None:
    plan = planned(workspace, job, *line)
    preflight.check_request(plan)
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
            ['no model "x"', "the data set does not exist"],
        ),
        (
            "infer",
            ["--model", "x", "--adapter", "b", "--input", "my.json"],
            ['no model "x"', 'no run "b"', 'unknown key "model_name_or_path"'],
        ),
        ("fetch", ["anything"], ['no model is known as "anything"']),
        ("infer", ["--model", "m", "--input", "gone.jsonl"], ["cannot read the prompts"]),
        (
            "export",
            ["--model", "x", "--adapter", "b", "--merge", "--output", "o"],
            ['"x"', 'no run "b"'],
        ),
        ("infer", ["--model", "bare", "--input", "-"], ["has no weights: pretrain it first"]),
        (
            "export",
            ["--model", "bare", "--adapter", "a", "--merge", "--output", "o"],
            ["has no weights"],
        ),
        (
            "finetune",
            ["--config", "my.json", "--set", "model_name_or_path=bare"],
            ["has no weights"],
        ),
        ("fetch", ["llama-nano", "--from", "scratch:gone.txt"], ["no such file or folder"]),
        ("fetch", ["llama-nano", "--from", "scratch:text:x"], ['unknown text "x"']),
    ],
)
def test_all_faults_are_told_at_once(
    workspace: Path, job: str, line: list[str], faults: list[str]
) -> None:
    with pytest.raises(RequestError) as caught:
        preflight.check_request(planned(workspace, job, *line))
    assert len(caught.value.problems) == len(faults)
    for problem, words in zip(caught.value.problems, faults, strict=True):
        assert words in problem.what
        assert not problem.where.startswith("/"), "a place is named as the person named it"


def upstream(
    workspace: Path, values: dict[str, object], script: str = "run_finetune.py"
) -> list[str]:
    """Return what is said about a run of upstream's program with these values."""
    (workspace / "up.json").write_text(json.dumps(values))
    try:
        preflight.check_request(planned(workspace, "upstream", script, "up.json"))
    except RequestError as error:
        return [f"{p.what} | {p.remedy}" for p in error.problems]
    return []


def test_what_upstreams_program_reads_has_to_be_there(workspace: Path) -> None:
    packed = workspace / "data" / "packed"
    packed.mkdir()
    (packed / "x.idx").touch()
    faults = upstream(
        workspace,
        {
            "model_name_or_path": "meta-llama/Llama-2-13b",
            "dataset_name_or_path": "data/e",
            "input_dir": "data/packed",
        },
    )
    assert len(faults) == 3
    assert "./inv fetch llama-2-13b, then --model_name_or_path models/llama-2-13b" in faults[0]
    assert "the data set does not exist" in faults[1]
    assert "x.bin is missing" in faults[2]
    assert "a tokenized corpus" in upstream(workspace, {"input_dir": "data/d"})[0]
    (packed / "x.bin").touch()
    right = {"model_name_or_path": "models/m", "input_dir": "data/packed"}
    assert upstream(workspace, {**right, "dataset_name_or_path": "data/d"}) == []
    # Upstream's own paths are taken as they are.
    assert "--model_name_or_path models/m" in upstream(workspace, {"model_name_or_path": "m"})[0]
    assert upstream(workspace, {"dataset_name_or_path": "data/d", "do_eval": True})
    bare = {"model_name_or_path": "models/bare"}
    assert "has no weights" in upstream(workspace, bare)[0]
    assert upstream(workspace, bare, "run_pretrain.py") == []
    go_on = {**bare, "continue_training": True}
    assert "has no weights" in upstream(workspace, go_on, "run_pretrain.py")[0]


def test_a_busy_run_is_refused(workspace: Path) -> None:
    lock = workspace / "runs" / "my" / ".lock"
    lock.parent.mkdir()
    lock.write_text("process 7 on host")
    plan = planned(workspace, "finetune", "--config", "my.json")
    preflight.check_request(plan)  # a lock that nobody holds is no lock
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="process 7 on host") as caught:
            preflight.check_request(plan)
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
    plan = planned(workspace, "fetch", "x")
    with pytest.raises(MachineError, match="nearly full"):
        preflight.check_workspace(plan)
    preflight.check_workspace(planned(workspace, "infer", "--model", "m", "--chat"))


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ([], "runs/my"),
        (["--set", "output_dir=runs/o"], "runs/o"),
        (["--set", "output_dir=runs/o", "--name", "n"], "runs/n"),
    ],
)
def test_the_run_folder(workspace: Path, line: list[str], folder: str) -> None:
    request = from_words("finetune", ["--config", "my.json", *line], workspace, "cpu")
    assert request.run == Path(folder)


def test_a_text_of_the_image_is_a_name_to_the_host(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_modules", None)
    monkeypatch.setattr(texts.sysconfig, "get_path", None)
    rest = ["--output", "data/x", "--model", "bare"]
    preflight.check_request(planned(workspace, "prepare", "--input", "text:python-stdlib", *rest))
    with pytest.raises(RequestError, match="unknown text"):
        preflight.check_request(planned(workspace, "prepare", "--input", "text:x", *rest))


@pytest.mark.parametrize("inside", [False, True])
def test_a_link_out_of_the_workspace_is_named(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, inside: bool
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    model = workspace / "models" / "m"
    moved = elsewhere / "m"
    if inside:
        weights = next(model.glob("*.safetensors"))
        weights.rename(elsewhere / weights.name)
        weights.symlink_to(elsewhere / weights.name)
    else:
        model.rename(moved)
        model.symlink_to(moved)
    with pytest.raises(RequestError) as caught:
        preflight.check_request(planned(workspace, "infer", "--model", "m", "--prompt", "x"))
    (problem,) = caught.value.problems
    assert "is a link to" in problem.what and str(elsewhere) in problem.what
    assert problem.remedy.startswith("rm models/m")


def test_a_link_within_the_workspace_and_a_linked_folder_are_right(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (workspace / "models" / "same").symlink_to("m")
    preflight.check_request(planned(workspace, "infer", "--model", "same", "--prompt", "x"))
    models = tmp_path_factory.mktemp("elsewhere") / "models"
    (workspace / "models").rename(models)
    (workspace / "models").symlink_to(models)
    preflight.check_request(planned(workspace, "infer", "--model", "m", "--prompt", "x"))

"""The mounts of a workspace: containers can never write code that runs on the host."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from paddle_stacks import launch
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Plan, mounts
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
CODE = ("inv", ".venv/bin/python", ".git/hooks/pre-commit", "paddle_stacks/launch.py", "tasks.py")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A workspace that is a checkout: it contains code that runs on the host."""
    folder = tmp_path / "checkout"
    for name in (*CODE, "docker-compose.yml", "models/m/config.json", "texts/a.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "inv").chmod(0o755)
    config = {"model_name_or_path": "m", "dataset_name_or_path": "sets/one"}
    (folder / "my.json").write_text(json.dumps(config))
    (folder / "in.jsonl").write_text('{"prompt": "x"}\n')
    (folder / "sets" / "one").mkdir(parents=True)
    (folder / "corpus.idx").touch()
    (folder / "corpus.bin").touch()
    return folder


def plan_for(workspace: Path, job: str, *arguments: str) -> Plan:
    return launch.make_plan(job, arguments, Settings(root=ROOT, workspace=workspace))


def mounted(plan: Plan) -> dict[str, str]:
    """Return the mounts below the workspace with their modes."""
    return {
        os.path.relpath(m.target, "/workspace"): "ro" if m.read_only else "rw" for m in plan.mounts
    }


ARGUMENTS = {
    "fetch": ["smollm2-135m-instruct"],
    "prepare": ["--input", "texts", "--output", "data/c", "--model", "m"],
    "inspect": ["data/c"],
    "finetune": ["--config", "my.json"],
    "pretrain": ["--config", "configs/jobs/cpu/pretrain-demo.json"],
    "quantize": ["--model", "m", "--output", "models/q"],
    "export": ["--model", "m", "--merge", "--adapter", "a", "--output", "models/e"],
    "infer": ["--model", "m", "--input", "in.jsonl", "--output", "out.jsonl"],
    "serve": ["--model", "m"],
}


@pytest.mark.parametrize("job", ARGUMENTS)
def test_no_job_can_write_code_that_runs_on_the_host(job: str, checkout: Path) -> None:
    if job == "pretrain":
        config = ROOT / "configs/jobs/cpu/pretrain-demo.json"
        (checkout / "configs/jobs/cpu").mkdir(parents=True)
        (checkout / ARGUMENTS[job][1]).write_bytes(config.read_bytes())
    plan = plan_for(checkout, job, *ARGUMENTS[job])
    for mount in plan.mounts:
        source = Path(mount.source).resolve()
        for name in (*CODE, "docker-compose.yml"):
            assert source != checkout / name and source not in (checkout / name).parents, mount
    assert mounted(plan).get("configs") in (None, "ro")


def test_files_in_arguments_are_mounted_wherever_they_are(checkout: Path) -> None:
    folders = {"models": "ro", "data": "ro", "runs": "ro"}
    infer = plan_for(checkout, "infer", "--model", "m", "--input", "in.jsonl")
    assert mounted(infer) == {**folders, "in.jsonl": "ro"}
    tuned = plan_for(checkout, "finetune", "--config", "my.json", "--name", "x")
    assert mounted(tuned) == {**folders, "runs": "rw", "my.json": "ro", "sets/one": "ro"}
    plan = plan_for(
        checkout, "prepare", "--input", "texts/*.jsonl", "--output", "data/c", "--model", "m"
    )
    assert mounted(plan) == {**folders, "data": "rw", "texts": "ro"}
    plan = plan_for(checkout, "inspect", "corpus", "--plot", "runs/x.png")
    assert mounted(plan) == {**folders, "runs": "rw", "corpus.idx": "ro", "corpus.bin": "ro"}


def test_the_folder_of_an_output_is_mounted(checkout: Path) -> None:
    plan = plan_for(checkout, "export", "--model", "m", "--static", "--output", "exported/x")
    assert mounted(plan)["exported"] == "rw"
    plan = plan_for(checkout, "finetune", "--config", "my.json", "--set", "output_dir=trained/x")
    assert mounted(plan)["trained/x"] == "rw"


def test_an_output_in_the_root_is_staged_and_moved(checkout: Path) -> None:
    plan = plan_for(
        checkout, "infer", "--model", "m", "--input", "in.jsonl", "--output", "out.jsonl"
    )
    (stage,) = (m for m in plan.mounts if m.target == "/workspace")
    assert Path(stage.source) == checkout / ".output" / "out.jsonl" and plan.outputs == (
        "out.jsonl",
    )
    mounts.make_sources(plan.mounts, checkout, f"{os.geteuid()}:{os.getegid()}")
    for name in ("out.jsonl", "inv", ".envrc", "tasks.py", "out.jsonl.part", "out.jsonl.py"):
        Path(stage.source, name).write_text("from the job")
    mounts.publish(checkout, plan.outputs)
    assert (checkout / "out.jsonl").read_text() == "from the job"
    assert (checkout / "inv").read_text() == "{}" and (checkout / "tasks.py").read_text() == "{}"
    assert not (checkout / ".envrc").exists() and not (checkout / "out.jsonl.py").exists()
    assert Path(stage.source, "out.jsonl.part").exists(), "the next run resumes from it"


def test_the_staging_folder_is_removed(checkout: Path) -> None:
    stage = checkout / ".output" / "out.jsonl"
    for name in ("models", "runs"):
        (stage / name).mkdir(parents=True)
    (stage / "in.jsonl").touch()
    (stage / "out.jsonl").write_text("from the job")
    mounts.publish(checkout, ("out.jsonl",))
    assert not (checkout / ".output").exists()
    assert (checkout / "out.jsonl").read_text() == "from the job"


def test_an_output_that_is_a_link_is_not_moved(checkout: Path) -> None:
    stage = checkout / ".output" / "out.jsonl"
    stage.mkdir(parents=True)
    (stage / "out.jsonl").symlink_to("/etc/passwd")
    mounts.publish(checkout, ("out.jsonl",))
    assert not (checkout / "out.jsonl").is_symlink()


def test_an_existing_output_is_mounted_unless_it_is_replaced(checkout: Path) -> None:
    (checkout / "out.jsonl").write_text("old")
    line = ["--model", "m", "--input", "in.jsonl", "--output", "out.jsonl"]
    assert mounted(plan_for(checkout, "infer", *line))["out.jsonl"] == "ro"
    assert "out.jsonl" not in mounted(plan_for(checkout, "infer", *line, "--force"))


@pytest.mark.parametrize(
    "output",
    [
        *("inv", "tasks.py", ".envrc", "Makefile", "x.sh", "configs/x", "paddle_stacks/x"),
        *(".git/hooks", ".venv/x", "scripts/x", "docs/deeper/x", "linked/x"),
    ],
)
def test_an_output_beside_code_is_rejected(output: str, checkout: Path) -> None:
    (checkout / "scripts").mkdir()
    (checkout / "scripts" / "deploy.sh").touch()
    (checkout / "linked").symlink_to("paddle_stacks")
    with pytest.raises(RequestError) as caught:
        plan_for(checkout, "export", "--model", "m", "--static", "--output", output)
    problem = caught.value.problems[0]
    assert "jobs cannot write" in problem.what and "--output" in problem.where
    assert "runs/NAME" in problem.remedy


@pytest.mark.parametrize("path", [".", ".git", ".venv/x.jsonl", "out-of-it", "to-hidden"])
def test_paths_that_jobs_cannot_read(path: str, checkout: Path) -> None:
    (checkout / ".venv" / "x.jsonl").touch()
    (checkout / "out-of-it").symlink_to("/etc/passwd")
    (checkout / "to-hidden").symlink_to(".git/hooks/pre-commit")
    with pytest.raises(RequestError) as caught:
        plan_for(checkout, "prepare", "--input", path, "--output", "data/c", "--model", "m")
    assert "data/" in caught.value.problems[0].remedy


def test_hidden_files_in_a_configuration_are_not_mounted(checkout: Path) -> None:
    config = {"model_name_or_path": "m", "dataset_name_or_path": ".git", "output_dir": "runs/x"}
    (checkout / "my.json").write_text(json.dumps(config))
    assert ".git" not in mounted(plan_for(checkout, "finetune", "--config", "my.json"))


def test_folders_that_are_links_are_mounted_at_their_target(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (checkout / "runs").symlink_to(tmp_path / "big")
    plan = plan_for(checkout, "finetune", "--config", "my.json", "--name", "x")
    (runs,) = (m for m in plan.mounts if m.target == "/workspace/runs")
    assert runs.source == str(tmp_path / "big") and not runs.read_only
    (checkout / "data").symlink_to(tmp_path / "nothing")
    with pytest.raises(RequestError) as caught:
        plan_for(checkout, "finetune", "--config", "my.json", "--name", "x")
    assert "mkdir -p" in caught.value.problems[0].remedy


def test_making_a_plan_creates_nothing(checkout: Path) -> None:
    before = sorted(checkout.rglob("*"))
    plan = plan_for(
        checkout, "infer", "--model", "m", "--input", "in.jsonl", "--output", "o/x.jsonl"
    )
    assert sorted(checkout.rglob("*")) == before
    mounts.make_sources(plan.mounts, checkout, f"{os.geteuid()}:{os.getegid()}")
    assert {"o", "data", "runs"} <= {path.name for path in checkout.iterdir()}


def test_a_pattern_of_many_files_in_the_root(checkout: Path) -> None:
    plan = plan_for(checkout, "prepare", "--input", "*.jsonl", "--output", "data/c", "--model", "m")
    assert "in.jsonl" in mounted(plan)


def test_jobs_write_only_to_the_common_folders() -> None:
    for job in JOBS.values():
        assert set(job.writes) <= set(mounts.FOLDERS)
    assert not JOBS["serve"].writes and not JOBS["infer"].writes


def test_the_list_of_the_checkouts_files_is_complete() -> None:
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    tops = {line.partition("/")[0] for line in done.stdout.splitlines()}
    tops -= {*mounts.FOLDERS} | {name for name in tops if name.startswith(".")}
    assert tops <= mounts._CHECKOUT

"""The workflows have the least rights, and what they run is pinned."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# What a job may write, and no other may.
WRITES = {
    ("release", "publish"): {"packages": "write"},
    ("site", "publish"): {"pages": "write", "id-token": "write"},
}


def load(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    # YAML 1.1 takes the key "on" for true.
    return {**document, "on": document.get("on", document.get(True))}


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            yield path.stem, name, job


JOBS = list(jobs())
NAMES = [f"{workflow}-{name}" for workflow, name, _ in JOBS]


def test_the_workflows_are_these() -> None:
    assert [path.stem for path in WORKFLOWS] == ["nightly", "release", "site", "test"]


@pytest.mark.parametrize(("workflow", "name", "job"), JOBS, ids=NAMES)
def test_a_job_has_the_rights_that_it_needs(workflow: str, name: str, job: dict[str, Any]) -> None:
    rights = job["permissions"]
    assert rights == WRITES.get((workflow, name), {"contents": "read"})
    assert job["timeout-minutes"] <= 360


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_no_rights_of_its_own_and_cancels_duplicates(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {}
    concurrency = workflow["concurrency"]
    assert concurrency["cancel-in-progress"] is (path.stem != "release")
    assert "pull_request_target" not in workflow["on"]


@pytest.mark.parametrize(("workflow", "name", "job"), JOBS, ids=NAMES)
def test_actions_are_pinned_by_their_commit(workflow: str, name: str, job: dict[str, Any]) -> None:
    for step in job["steps"]:
        used = step.get("uses", "")
        assert not used or re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40}", used), used
        if used.startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    text = (ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text()
    for line in text.splitlines():
        if "uses:" in line:
            assert re.search(r" # v\d+\.\d+\.\d+$", line), f"{line} does not say which version"


@pytest.mark.parametrize(("workflow", "name", "job"), JOBS, ids=NAMES)
def test_a_job_that_can_write_runs_nothing_of_the_repository(
    workflow: str, name: str, job: dict[str, Any]
) -> None:
    if (workflow, name) not in WRITES:
        assert "secrets." not in yaml.safe_dump(job)
        return
    assert job["needs"] in ("test", "build")
    assert not any("checkout" in step.get("uses", "") for step in job["steps"])
    scripts = "\n".join(step.get("run", "") for step in job["steps"])
    assert "./" not in scripts and "${{" not in scripts, "no expression becomes part of a script"


def test_what_is_published_is_what_was_tested() -> None:
    release = load(ROOT / ".github" / "workflows" / "release.yml")
    assert release["on"] == {"push": {"tags": ["v*"]}}
    assert release["jobs"]["publish"]["if"] == "startsWith(github.ref, 'refs/tags/v')"
    steps = release["jobs"]["test"]["steps"]
    assert any(step.get("run", "").endswith("bash .ci/run --nightly\n") for step in steps)
    assert not any("cache" in step.get("uses", "") for step in steps), "built here, not taken over"
    others = [load(path)["on"] for path in WORKFLOWS if path.stem != "release"]
    assert not any("tags" in (on.get("push") or {}) for on in others)


def test_every_push_is_tested_and_scanned() -> None:
    workflow = load(ROOT / ".github" / "workflows" / "test.yml")
    assert workflow["on"] == {"push": {"branches": ["**"]}, "pull_request": None}
    scripts = "\n".join(step.get("run", "") for step in workflow["jobs"]["test"]["steps"])
    assert "bash .ci/run --fast\n" in scripts and "./inv images.scan" in scripts
    nightly = load(ROOT / ".github" / "workflows" / "nightly.yml")
    assert "schedule" in nightly["on"]
    assert nightly["jobs"]["test"]["steps"][-1]["run"].endswith("bash .ci/run --nightly\n")


# ------------------------------------------------------------------------------- kept layers


@pytest.fixture
def runner(tmp_path: Path) -> dict[str, str]:
    """A machine whose systemctl says what it was asked, and an engine's folder."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "systemctl").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n')
    (tools / "id").write_text("#!/bin/sh\necho 0\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    data = tmp_path / "docker"
    for name in ("overlay2/a", "containers/b", "tmp/c"):
        (data / name).mkdir(parents=True)
        (data / name / "file").write_text(name)
    path = f"{tools}:{os.environ['PATH']}"
    return {"PATH": path, "CI": "true", "LAYERS_ROOT": str(data), "HOME": str(tmp_path)}


def layers(runner: dict[str, str], *words: str) -> int:
    command = ["bash", str(ROOT / ".ci" / "layers"), *words]
    return subprocess.run(command, env=runner, capture_output=True, check=False).returncode


@pytest.mark.skipif(shutil.which("zstd") is None, reason="runners have zstd")
def test_layers_are_kept_and_taken_over(runner: dict[str, str], tmp_path: Path) -> None:
    archive, data = tmp_path / "layers.tar.zst", Path(runner["LAYERS_ROOT"])
    assert layers(runner, "save", str(archive)) == 0
    (data / "overlay2" / "a" / "file").unlink()
    (data / "overlay2" / "new").mkdir()
    assert layers(runner, "restore", str(archive)) == 0
    kept = sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.is_file())
    assert kept == ["overlay2/a/file"], "no containers, and nothing that was not in the archive"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["stop docker.socket docker.service", "start docker.service"] * 2


def test_without_an_archive_the_engine_is_left_alone(
    runner: dict[str, str], tmp_path: Path
) -> None:
    assert layers(runner, "restore", str(tmp_path / "none")) == 0
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("words", [(), ("save",), ("remove", "x")])
def test_layers_are_only_touched_on_a_runner(
    runner: dict[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    assert layers(runner, *words) == 2
    outside = {key: value for key, value in runner.items() if key != "CI"}
    assert layers(outside, "save", str(tmp_path / "x")) == 2
    assert not (tmp_path / "asked").exists()

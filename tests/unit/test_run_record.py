"""What the host keeps of a run, in a folder that belongs to what it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from paddle_stacks.executors.record import LOG, PLAN, RunRecord

USER = f"{os.getuid()}:{os.getgid()}"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A workspace, and a folder of the host's beside it with a file of its own."""
    workspace, outside = tmp_path / "workspace", tmp_path / "outside"
    (workspace / "runs").mkdir(parents=True)
    outside.mkdir()
    (outside / "passwd").write_text("root\n")
    return workspace, outside


def record(workspace: Path, folder: str = "runs/x") -> RunRecord:
    return RunRecord(workspace / folder, workspace, {"job": "finetune"}, USER)


def test_lines_wait_until_the_job_has_made_its_folder(places: tuple[Path, Path]) -> None:
    workspace, _ = places
    kept = record(workspace)
    kept.write("first")
    assert not (workspace / "runs" / "x").exists()
    (workspace / "runs" / "x").mkdir()
    kept.write("second")
    kept.write("third")
    run = workspace / "runs" / "x"
    assert (run / LOG).read_text() == "first\nsecond\nthird\n"
    assert json.loads((run / PLAN).read_text()) == {"job": "finetune"}
    assert sorted(path.name for path in run.iterdir()) == [PLAN, LOG]


def test_a_link_within_the_runs_is_followed(places: tuple[Path, Path]) -> None:
    workspace, _ = places
    (workspace / "runs" / "large" / "x").mkdir(parents=True)
    (workspace / "runs" / "x").symlink_to("large/x")
    record(workspace).write("line")
    assert (workspace / "runs" / "large" / "x" / LOG).read_text() == "line\n"


def folder_link(run: Path, outside: Path) -> None:
    run.symlink_to(outside)


def circle(run: Path, outside: Path) -> None:
    run.symlink_to(run)


def log_link(run: Path, outside: Path) -> None:
    run.mkdir()
    (run / LOG).symlink_to(outside / "passwd")


def log_of_two_names(run: Path, outside: Path) -> None:
    run.mkdir()
    os.link(outside / "passwd", run / LOG)


def log_pipe(run: Path, outside: Path) -> None:
    run.mkdir()
    os.mkfifo(run / LOG)


def log_folder(run: Path, outside: Path) -> None:
    (run / LOG).mkdir(parents=True)


def part_folder(run: Path, outside: Path) -> None:
    (run / f".{PLAN}.part").mkdir(parents=True)


def file_in_its_place(run: Path, outside: Path) -> None:
    run.write_text("")


@pytest.mark.parametrize(
    "trap",
    [
        folder_link,
        circle,
        log_link,
        log_of_two_names,
        log_pipe,
        log_folder,
        part_folder,
        file_in_its_place,
    ],
)
def test_a_job_cannot_make_the_host_write_elsewhere(
    trap: Callable[[Path, Path], None], places: tuple[Path, Path]
) -> None:
    workspace, outside = places
    trap(workspace / "runs" / "x", outside)
    before = {path: path.stat() for path in outside.rglob("*")}
    kept = record(workspace)
    kept.write("* * * * * root touch /owned")
    kept.write("and more")
    assert {path: path.stat() for path in outside.rglob("*")} == before
    assert (outside / "passwd").read_text() == "root\n"


@pytest.mark.parametrize("name", [PLAN, f".{PLAN}.part"])
def test_a_link_in_the_plans_place_is_replaced(name: str, places: tuple[Path, Path]) -> None:
    workspace, outside = places
    run = workspace / "runs" / "x"
    run.mkdir()
    (run / name).symlink_to(outside / "passwd")
    record(workspace).write("line")
    assert (outside / "passwd").read_text() == "root\n"
    assert not (run / PLAN).is_symlink() and json.loads((run / PLAN).read_text())


@pytest.mark.parametrize("folder", ["../outside", "runs/../../outside", "/tmp"])
def test_a_folder_outside_of_the_workspace_is_left_alone(
    folder: str, places: tuple[Path, Path]
) -> None:
    workspace, outside = places
    record(workspace, folder).write("line")
    assert [path.name for path in outside.iterdir()] == ["passwd"]

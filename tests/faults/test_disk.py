"""A disk that is full, and one that may only be read."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.completeness import left_over
from tests.support.job_containers import run
from tests.support.loopback import Server
from tests.support.scenarios import SCENARIOS, Scenario
from tests.support.slow_hub import reaching

JOBS = [name for name in SCENARIOS if "--force" not in name]
SHARES = (0.02, 0.35, 0.8)  # of what the job writes, there is room for
DISK_BYTES = 64 * 2**20


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Yield a disk of its own for a workspace: in memory, mounted by root."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def leave(disk: Path, room: int) -> Path:
    """Fill a disk until there is so much room, and return what fills it."""
    ballast = disk / "ballast"
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, free(disk) - room)
    return ballast


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk")
@pytest.mark.parametrize("name", [name for name in JOBS if name != "quantize"])
def test_a_full_disk_is_said_and_gone_on_after(
    name: str, fresh: Path, hub: Server, tmp_path: Path
) -> None:
    scenario = reaching(SCENARIOS[name], hub)
    with small_disk(tmp_path / "disk") as disk:
        workspace = disk / "undisturbed"
        wanted, needed = undisturbed(scenario, fresh, workspace)
        for share in SHARES:
            shutil.rmtree(workspace)
            shutil.copytree(fresh, workspace)
            ballast = leave(disk, int(share * needed))
            done = run(scenario.argv, workspace, environ=scenario.environ)
            assert done.status == 3, f"{share}: {done.status} {done.stderr}"
            assert "No space left on device" in done.stderr, done.stderr
            assert "Traceback" not in done.stderr, done.stderr
            for thing, found in scenario.complete(workspace).items():
                assert found == wanted[thing], f"{share}: {thing}: {done.stderr}"
            reached = scenario.progress(workspace)
            ballast.unlink()
            again = run(scenario.argv, workspace, environ=scenario.environ)
            assert again.status == 0, again.stderr
            found = scenario.complete(workspace)
            assert found == {thing: wanted[thing] for thing in found}
            lost = set(wanted) - set(found)
            assert all(thing.startswith("checkpoint-") for thing in lost), lost
            assert left_over(workspace) == []
            went_on = any(words in again.stderr for words in scenario.goes_on)
            assert went_on or not reached or scenario.argv[0] == "fetch", again.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk")
def test_quantize_says_that_there_is_no_room_before_it_begins(fresh: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:  # smaller than what it leaves free in any case
        workspace = shutil.copytree(fresh, disk / "workspace")
        before = sorted(workspace.rglob("*"))
        done = run(SCENARIOS["quantize"].argv, workspace)
        assert done.status == 3, done.stderr
        assert "MiB are free" in done.stderr and "fix: " in done.stderr
        assert [path for path in sorted(workspace.rglob("*")) if path.suffix != ".lock"] == before


def undisturbed(scenario: Scenario, fresh: Path, workspace: Path) -> tuple[dict[str, str], int]:
    """Return what a job makes where there is room, and how many bytes stay of it."""
    shutil.copytree(fresh, workspace)
    before = free(workspace)
    done = run(scenario.argv, workspace, environ=scenario.environ)
    assert done.status == 0, done.stderr
    needed = before - free(workspace)
    if scenario.reference:  # what it made, and removed since
        shutil.rmtree(workspace)
        shutil.copytree(fresh, workspace)
        done = run([*scenario.argv, *scenario.reference], workspace, environ=scenario.environ)
        assert done.status == 0, done.stderr
    return scenario.complete(workspace), needed


@pytest.mark.parametrize("name", JOBS)
def test_a_disk_that_may_only_be_read_is_said(
    name: str, fresh: Path, hub: Server, tmp_path: Path
) -> None:
    scenario = reaching(SCENARIOS[name], hub)
    workspace = tmp_path / "workspace"
    shutil.copytree(fresh, workspace)
    before = sorted(workspace.rglob("*"))
    done = run(scenario.argv, workspace, environ=scenario.environ, mode="ro")
    assert done.status == 3, f"{done.status} {done.stderr}"
    assert "Read-only file system" in done.stderr, done.stderr
    assert "fix: " in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert sorted(workspace.rglob("*")) == before

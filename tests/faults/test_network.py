"""A network that stalls, cuts and lies in mid-download."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.completeness import NAME, downloaded, left_over, model
from tests.support.job_containers import KILLED, hurt, run, start
from tests.support.loopback import Server, serving
from tests.support.scenarios import SCENARIOS
from tests.support.slow_hub import environ
from tests.unit.test_fetch import hub_answers

ARGV = SCENARIOS["fetch"].argv
FILE = "/org/tiny/resolve/abc/model-00001-of-00003.safetensors"


@pytest.fixture
def own_hub(fresh: Path) -> Iterator[Server]:
    """A hub whose faults no other test sees."""
    with serving() as server:
        hub_answers(server, fresh / "hub")
        yield server


@pytest.fixture(scope="module")
def wanted(fresh: Path, hub: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    workspace = tmp_path_factory.mktemp("wanted")
    done = run(ARGV, workspace, environ=environ(hub))
    assert done.status == 0, done.stderr
    return model(workspace)


def ranges(server: Server) -> list[str | None]:
    return [headers.get("range") for path, headers in server.requests if path == FILE]


def test_it_stalls_and_the_job_is_killed(
    own_hub: Server, wanted: dict[str, str], tmp_path: Path
) -> None:
    own_hub.stall_at = {FILE: 3000}
    part = tmp_path / "models" / ".downloads" / NAME / (Path(FILE).name + ".part")
    running = start(ARGV, tmp_path, environ=environ(own_hub))
    end = time.monotonic() + 60
    while not (part.is_file() and part.stat().st_size == 3000):
        assert time.monotonic() < end and running.process.poll() is None, running.lines
        time.sleep(0.01)
    hurt(running)
    assert running.wait().status == KILLED
    assert (model(tmp_path), downloaded(tmp_path) > 3000) == ({}, True)
    done = run(ARGV, tmp_path, environ=environ(own_hub))
    assert done.status == 0, done.stderr
    assert ranges(own_hub) == [None, "bytes=3000-"]
    assert model(tmp_path) == wanted
    assert left_over(tmp_path) == []


def test_it_stalls_and_the_job_waits_no_longer_than_a_minute(
    own_hub: Server, wanted: dict[str, str], tmp_path: Path
) -> None:
    own_hub.stall_at = {FILE: 3000}
    done = run(ARGV, tmp_path, environ=environ(own_hub))
    assert done.status == 0, done.stderr
    assert "retrying" in done.stderr
    assert ranges(own_hub) == [None, "bytes=3000-"]
    assert model(tmp_path) == wanted


def test_it_cuts(own_hub: Server, wanted: dict[str, str], tmp_path: Path) -> None:
    own_hub.cut_at = {FILE: [10, 100, 1000]}
    done = run(ARGV, tmp_path, environ=environ(own_hub))
    assert done.status == 0, done.stderr
    assert done.stderr.count("the connection broke") == 3
    assert ranges(own_hub)[1:] == ["bytes=10-", "bytes=110-", "bytes=1110-"]
    assert model(tmp_path) == wanted


def test_it_cuts_every_time(own_hub: Server, wanted: dict[str, str], tmp_path: Path) -> None:
    own_hub.cut_at = {FILE: [0] * 50}
    done = run(ARGV, tmp_path, environ=environ(own_hub))
    assert done.status == 5, done.stderr
    assert "which resumes the download" in done.stderr
    assert model(tmp_path) == {}
    own_hub.cut_at = {}
    assert run(ARGV, tmp_path, environ=environ(own_hub)).status == 0
    assert model(tmp_path) == wanted


@pytest.mark.parametrize("by", [-1000, 1000])
def test_it_lies_about_a_length(
    own_hub: Server, wanted: dict[str, str], tmp_path: Path, by: int
) -> None:
    own_hub.lengths = {FILE: len(own_hub.files[FILE]) + by}
    done = run(ARGV, tmp_path, environ=environ(own_hub))
    if done.status:
        assert done.status in (2, 5), done.stderr
        assert "fix: " in done.stderr and model(tmp_path) == {}, done.stderr
        done = run(ARGV, tmp_path, environ=environ(own_hub))
    assert done.status == 0, done.stderr
    assert own_hub.lengths == {}, "it has lied"
    assert model(tmp_path) == wanted
    assert left_over(tmp_path) == []


def test_it_sends_something_else(own_hub: Server, wanted: dict[str, str], tmp_path: Path) -> None:
    true = own_hub.files[FILE]
    own_hub.files[FILE] = true[:-1] + bytes([true[-1] ^ 1])
    done = run(ARGV, tmp_path, environ=environ(own_hub))
    assert done.status == 2, done.stderr
    assert "SHA-256" in done.stderr and "expected" in done.stderr
    assert model(tmp_path) == {}
    folder = tmp_path / "models" / ".downloads" / NAME
    assert not [path for path in folder.iterdir() if path.name.startswith(Path(FILE).name)]
    own_hub.files[FILE] = true
    assert run(ARGV, tmp_path, environ=environ(own_hub)).status == 0
    assert model(tmp_path) == wanted


def test_nobody_is_there(fresh: Path, tmp_path: Path) -> None:
    with serving() as gone:
        nowhere = environ(gone)
    done = run(ARGV, tmp_path, environ=nowhere)
    assert done.status == 5, done.stderr
    assert "fix: " in done.stderr
    shutil.copytree(fresh / "models", tmp_path / "models", dirs_exist_ok=True)
    done = run(["fetch", NAME, "--from", "models/tiny"], tmp_path)
    assert done.status == 0, "a model that is here needs no network"

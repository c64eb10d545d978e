"""Several suites beside each other end as one, and each is told of in one piece."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from paddle_stacks import suites
from paddle_stacks.suites import SUITES, Suite

ROOT = Path(__file__).parents[2]
GOOD = "def test_good():\n    assert True\n"
BAD = "def test_bad():\n    assert 1 == 2, 'they differ'\n"
# Each waits for the other, so that one after the other they would not pass.
MEET = """
import pathlib, time
def test_meets_{other}():
    folder = pathlib.Path(__file__).parents[2]
    (folder / "{own}").touch()
    end = time.monotonic() + 60
    while not (folder / "{other}").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout that has no tests yet."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    return tmp_path


def made(root: Path, **programs: str) -> dict[str, Suite]:
    found = {}
    for name, program in programs.items():
        folder = root / "tests" / name
        folder.mkdir(parents=True)
        (folder / f"test_{name}.py").write_text(program)
        found[name] = Suite(f"what {name} proves", (f"tests/{name}",))
    return found


def record(root: Path, name: str) -> dict[str, object]:
    return dict(json.loads((root / ".cache" / "test" / f"cpu-{name}.json").read_text()))


def test_they_run_at_the_same_time(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one, other = MEET.format(own="a", other="b"), MEET.format(own="b", other="a")
    assert suites.run(root, made(root, a=one, b=other)) == 0
    said = capfd.readouterr()
    assert re.search(r"^a +1 passed +\d:\d\d\nb +1 passed +\d:\d\d\n2 passed in", said.out, re.M)
    assert "a begins: what a proves; .cache/test/a.log" in said.err


def test_one_that_fails_is_shown_whole(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert suites.run(root, made(root, a=GOOD, b=BAD, c=GOOD)) == 1
    said = capfd.readouterr().out
    pieces = dict(re.findall(r"^== (\w)\n(.*?)(?=^== \w$|\Z)", said, re.DOTALL | re.MULTILINE))
    assert "they differ" in pieces["b"]
    assert "they differ" not in pieces["a"] and "1 passed" in pieces["a"]
    assert said.splitlines()[-1].startswith("1 failed, 2 passed in ")
    assert [record(root, name)["passed"] for name in "abc"] == [True, False, True]


def test_one_alone_speaks_as_it_goes(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert suites.run(root, made(root, a=BAD)) == 1
    assert "they differ" in capfd.readouterr().out
    assert not (root / ".cache" / "test" / "a.log").exists()


def test_a_selection_is_no_run_of_the_folders(root: Path) -> None:
    found = made(root, a=GOOD, b=BAD)
    assert suites.run(root, found, ["-k", "good"]) == 0
    assert suites.run(root, found, ["-k", "bad"]) == 1
    assert suites.run(root, found, ["-k", "ugly"]) == 5
    assert not list((root / ".cache" / "test").glob("*.json"))


def test_every_folder_of_tests_is_in_a_suite() -> None:
    """But for those that hold what tests read."""
    run = {folder for suite in SUITES.values() for folder in suite.folders}
    there = {f"tests/{path.parent.name}" for path in ROOT.glob("tests/*/test_*.py")}
    assert there <= run
    assert run == {folder for folder in run if (ROOT / folder).is_dir()}

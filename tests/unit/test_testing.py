"""The suites: run beside each other, shown while they run, summed up, repeated."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paddle_stacks.testing import progress, suites
from paddle_stacks.testing.runner import SuiteRun, TestSession, failed_last
from paddle_stacks.testing.suites import SUITES, Suite

ROOT = Path(__file__).parents[2]
GOOD = "def test_good():\n    assert True\n"
BAD = "def test_bad():\n    assert 1 == 2, 'they differ'\n"
MIXED = f"""
import pytest
{GOOD}
@pytest.mark.skip(reason="no such machine")
def test_skipped(): pass

@pytest.fixture
def broken():
    raise RuntimeError("no engine")

@pytest.mark.slow
def test_slow(broken): pass
"""
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
    markers = "markers =\n    slow: left out\n"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = --import-mode=importlib\n{markers}")
    return tmp_path


def write(root: Path, parallel: str = "", **programs: str) -> dict[str, Suite]:
    table = {}
    for name, program in programs.items():
        folder = root / "tests" / name
        folder.mkdir(parents=True)
        (folder / f"test_{name}.py").write_text(program)
        table[name] = Suite((f"tests/{name}",), is_parallel=name == parallel)
    return table


def run(root: Path, table: dict[str, Suite], *arguments: str, **options: bool) -> int:
    session = TestSession(root, progress.PlainProgress(), arguments, **options)
    session.run(table)
    return session.finish()


def record(root: Path, name: str) -> dict[str, object]:
    return dict(json.loads((root / ".cache" / "test" / f"cpu-{name}.json").read_text()))


@pytest.mark.slow
def test_suites_run_at_the_same_time(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one, other = MEET.format(own="a", other="b"), MEET.format(own="b", other="a")
    assert run(root, write(root, a=one, b=other)) == 0
    output = capfd.readouterr()
    assert re.search(r"^a +1 passed +\d:\d\d  \.cache/test/a\.xml$", output.out, re.M)
    assert re.search(r"^2 passed in \d:\d\d$", output.out, re.M)
    assert re.search(r"^a 1 tests · 0 failed · \d:\d\d$", output.err, re.M)


def test_a_failure_is_shown_with_the_command_that_repeats_it(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = write(root, a=GOOD, b=BAD, c=GOOD)
    assert run(root, table, is_complete=True) == 1
    output = capfd.readouterr()
    repeat = "./inv test --suite b --only 'tests/b/test_b.py::test_bad'"
    assert "they differ" in output.err and f"to repeat it: {repeat}" in output.err
    assert output.out.index(repeat) < output.out.index("1 failed, 2 passed in ")
    assert [record(root, name)["passed"] for name in "abc"] == [True, False, True]
    assert failed_last(root) == {"b": ["tests/b/test_b.py::test_bad"]}


SLEEPS = """
import os, pathlib, time
def test_sleeps():
    try:
        pathlib.Path("pid").write_text(str(os.getpid()))
        time.sleep(600)
    finally:
        pathlib.Path("cleaned").touch()
"""
SESSION = """
import sys
from pathlib import Path
from paddle_stacks.testing import progress
from paddle_stacks.testing.runner import TestSession
from paddle_stacks.testing.suites import Suite
session = TestSession(Path(), progress.PlainProgress(), ())
session.run({"a": Suite(("tests/a",))})
"""


@pytest.mark.slow
def test_a_killed_session_takes_its_suites_with_it(root: Path) -> None:
    write(root, a=SLEEPS)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    session = subprocess.Popen([sys.executable, "-c", SESSION], cwd=root, env=environ)
    pid = root / "pid"
    wait_until(lambda: pid.is_file() and pid.read_text() != "")
    session.kill()
    session.wait()
    wait_until((root / "cleaned").is_file)
    wait_until(lambda: not Path("/proc", pid.read_text()).exists())


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_what_failed_is_repeated_until_it_passes(root: Path) -> None:
    table = write(root, a=GOOD, b=BAD + GOOD)
    assert run(root, table) == 1
    (root / "tests" / "b" / "test_b.py").write_text(BAD.replace("1 == 2", "1 == 1") + GOOD)
    session = TestSession(root, progress.PlainProgress())
    session.run({"b": table["b"]}, failed_last(root))
    assert session.finish() == 0
    assert failed_last(root) == {}


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["", "a"])
def test_every_outcome_is_counted(
    root: Path, parallel: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(root, write(root, parallel, a=MIXED)) == 1
    output = capfd.readouterr()
    assert "1 error, 1 passed, 1 skipped in " in output.out.splitlines()[-1]
    assert "no engine" in output.err
    assert run(root, SUITE_A, *suites.FAST) == 0
    assert "1 passed, 1 skipped in " in capfd.readouterr().out


SUITE_A = {"a": Suite(("tests/a",))}


@pytest.mark.slow
def test_a_file_that_cannot_be_imported_is_an_error(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(root, write(root, a="import nothing_of_that_name\n", b=GOOD)) not in (0, 5)
    output = capfd.readouterr()
    assert "nothing_of_that_name" in output.err
    assert "1 error, 1 passed in " in output.out


@pytest.mark.slow
def test_a_selection_is_no_run_of_the_folders(root: Path) -> None:
    table = write(root, a=GOOD, b=BAD)
    assert run(root, table, "-k", "good") == 0
    assert run(root, table, "-k", "bad") == 1
    assert run(root, table, "-k", "ugly") == 5
    assert not list((root / ".cache" / "test").glob("cpu-*.json"))


def state(tmp_path: Path, tests: int, seconds: float, expected: dict[str, float]) -> SuiteRun:
    run = SuiteRun("jobs", SUITE_A["a"], None, tmp_path, expected)  # type: ignore[arg-type]
    run.ids = [f"test_{number}" for number in range(4)]
    run.tests = [{"id": name, "outcome": "passed", "seconds": 1} for name in run.ids[:tests]]
    run.started -= seconds
    return run


def test_the_time_left_goes_by_what_the_tests_took_last_time(tmp_path: Path) -> None:
    expected = {"test_0": 10.0, "test_1": 10.0, "test_2": 300.0, "test_3": 300.0}
    # Two of the short ones took twice what they took last time.
    line = progress.line_of(state(tmp_path, 2, 40, expected))
    assert line == "jobs 2/4 · 0 failed · 20 min left"
    assert progress.line_of(state(tmp_path, 2, 40, {})).endswith("less than a minute left")
    assert progress.line_of(state(tmp_path, 0, 40, {})) == "jobs 0/4 · 0 failed"


def test_every_folder_of_tests_is_in_a_suite() -> None:
    """But for those that hold what tests read."""
    covered = {folder for suite in SUITES.values() for folder in suite.folders}
    there = {f"tests/{path.parent.name}" for path in ROOT.glob("tests/*/test_*.py")}
    assert there <= covered
    assert covered == {folder for folder in covered if (ROOT / folder).is_dir()}

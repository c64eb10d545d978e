"""Run suites beside each other, show their progress, and keep their outcomes.

Each suite is a pytest of its own, whose output is a log in ``.cache/test/``. What it reports
(see :mod:`paddle_stacks.testing.reporter`) becomes progress, failures as they occur, and a
summary.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.settings import PREFIX
from paddle_stacks.testing.progress import Progress, as_minutes
from paddle_stacks.testing.reporter import OPTION as EVENTS_OPTION
from paddle_stacks.testing.suites import CORES, Suite
from paddle_stacks.verify import RECORDS, tally_counts

__all__ = ["RECORDS", "SuiteRun", "TestSession", "failed_last"]

_DURATIONS = "durations.json"
_FAILED = "failed.json"
_NOTHING_SELECTED = 5  # pytest's exit status
_POLL_SECONDS = 0.2
_HERE = Path(__file__).resolve().parents[2]  # where the reporter is imported from
_SLOWEST = 10
_END_SECONDS = 30


@dataclass
class SuiteRun:
    """A suite that runs or has ended.

    Args:
        name: of the suite.
        suite: what is run.
        process: its pytest.
        events: the file that the reporter writes to.
        expected: seconds that its tests took last time, by id.
    """

    name: str
    suite: Suite
    process: subprocess.Popen[bytes]
    events: Path
    expected: Mapping[str, float]
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    ids: list[str] = field(default_factory=list)
    tests: list[dict[str, Any]] = field(default_factory=list)
    _offset: int = 0

    @property
    def seconds(self) -> float:
        """Return how long it has run."""
        return (self.ended or time.monotonic()) - self.started

    @property
    def counts(self) -> Counter[str]:
        """Return how many tests ended with each outcome."""
        return Counter(test["outcome"] for test in self.tests)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Return the tests that did not pass."""
        return [test for test in self.tests if test["outcome"] in ("failed", "error")]

    def seconds_left(self) -> float | None:
        """Estimate the seconds until its end; None while nothing is known.

        A test is expected to take as long as last time, or as the average of the others; how
        fast this run is, its ended tests show.
        """
        if not self.tests or not self.ids:
            return None
        durations = [self.expected[name] for name in self.ids if name in self.expected]
        average = sum(durations) / len(durations) if durations else 1.0
        cost = {name: self.expected.get(name, average) for name in self.ids}
        done = sum(cost.get(test["id"], 0.0) for test in self.tests)
        if done <= 0:
            return None
        return max(0.0, (sum(cost.values()) - done) * self.seconds / done)

    def read_events(self) -> list[dict[str, Any]]:
        """Take in the events since the last call; return the tests that ended."""
        with self.events.open("rb") as stream:
            stream.seek(self._offset)
            *lines, rest = stream.read().split(b"\n")
            self._offset = stream.tell() - len(rest)
        events = [json.loads(line) for line in lines]
        self.ids += [name for event in events for name in event.get("collected", ())]
        ended = [event for event in events if "outcome" in event]
        self.tests += ended
        return ended


class TestSession:
    """One run of the tests, of all suites that are asked for.

    Args:
        root: the repository's root.
        progress: shows how far it is.
        arguments: of each pytest, which select tests.
        is_complete: whether all tests of the suites are selected, so that their outcome is
            kept as the folders' (see :func:`paddle_stacks.verify.write_records`).
    """

    __test__ = False  # pytest: this is no class of tests

    def __init__(
        self,
        root: Path,
        progress: Progress,
        arguments: Sequence[str] = (),
        *,
        is_complete: bool = False,
    ) -> None:
        self._root = root
        self._progress = progress
        self._arguments = arguments
        self._is_complete = is_complete
        self._began = time.monotonic()
        self._runs: list[SuiteRun] = []
        self._durations = _read(root / RECORDS / _DURATIONS)

    def run(
        self, suites: Mapping[str, Suite], ids: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Run suites to their end, as many beside each other as there are cores for.

        Args:
            suites: by name, in the order in which they start.
            ids: the tests of each suite that are run; all that the arguments select if None.
        """
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        waiting = list(suites)
        running: list[SuiteRun] = []
        try:
            while waiting or running:
                # One more than there are cores: tests also wait for containers and disks.
                used = sum(run.suite.workers for run in running)
                if waiting and (not used or used + suites[waiting[0]].workers <= CORES + 1):
                    name = waiting.pop(0)
                    running.append(self._start(name, suites[name], (ids or {}).get(name)))
                    continue
                time.sleep(_POLL_SECONDS)
                for run in running:
                    self._take(run)
                running = [run for run in running if run.ended is None]
                self._progress.update(self._runs)
        finally:
            for run in running:
                _end(run.process)

    def _start(self, name: str, suite: Suite, ids: Sequence[str] | None) -> SuiteRun:
        folder = self._root / RECORDS
        folder.mkdir(parents=True, exist_ok=True)
        events, record = folder / f"{name}.events", folder / f"{name}.xml"
        events.write_bytes(b"")
        record.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-p", "paddle_stacks.testing.reporter"]
        command += [*(ids or suite.folders), *self._arguments, f"--junitxml={record}"]
        command += [f"{EVENTS_OPTION}={events}"]
        if suite.workers > 1:
            command += ["-n", str(suite.workers), "--dist", "worksteal"]
        environment = {
            **os.environ,
            f"{PREFIX}BACKEND": suite.backend,
            "PYTHONPATH": os.pathsep.join((str(_HERE), os.environ.get("PYTHONPATH", ""))),
            "PYTHONUNBUFFERED": "1",  # so that the log can be followed
        }
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self._root, env=environment, stdout=log, stderr=log
            )
        run = SuiteRun(name, suite, process, events, self._durations.get(name, {}))
        self._runs.append(run)
        return run

    def _take(self, run: SuiteRun) -> None:
        """Take in what a suite reports, and whether it has ended."""
        status = run.process.poll()
        for test in run.read_events():
            if test["outcome"] in ("failed", "error"):
                self._progress.message(_failure(run.name, test))
        if status is None:
            return
        run.ended = time.monotonic()
        if status not in (0, 1, _NOTHING_SELECTED):
            log = (self._root / RECORDS / f"{run.name}.log").read_text(errors="replace")
            self._progress.message(f"{run.name}: pytest ended with {status}\n{log[-4000:]}")
        if self._is_complete:
            self._keep_record(run, status)

    def _keep_record(self, run: SuiteRun, status: int) -> None:
        from paddle_stacks import verify

        record = self._root / RECORDS / f"{run.name}.xml"
        outcomes = verify.outcomes(record) if record.is_file() else []
        verify.write_records(self._root, run.suite.backend, run.suite.folders, status, outcomes)

    def finish(self) -> int:
        """Print the summary, keep durations and failures, and return the exit status.

        Returns:
            0 if all tests passed, 5 if none was selected, else the first pytest's that is bad.
        """
        self._progress.close()
        self._keep()
        for line in self._summary():
            print(line)
        sys.stdout.flush()
        # That nothing is selected is no fault of a suite among others.
        statuses = [run.process.returncode for run in self._runs]
        bad = next((status for status in statuses if status not in (0, _NOTHING_SELECTED)), 0)
        return bad or (0 if any(run.tests for run in self._runs) else _NOTHING_SELECTED)

    def _summary(self) -> list[str]:
        tests = [(test, run.name) for run in self._runs for test in run.tests]
        lines = ["", f"{'suite':<10} {'outcome':<40} {'time':>6}  record"]
        for run in self._runs:
            record = f"{RECORDS / run.name}.xml"
            lines.append(
                f"{run.name:<10} {tally_counts(run.counts):<40} "
                f"{as_minutes(run.seconds):>6}  {record}"
            )
        slowest = sorted(tests, key=lambda pair: -pair[0]["seconds"])[:_SLOWEST]
        lines += ["", "slowest tests, in seconds"]
        lines += [f"{test['seconds']:>7.1f}  {test['id']}" for test, _ in slowest]
        notes = [note for test, _ in tests for note in test.get("notes", ())]
        lines += ["", *notes] if notes else []
        failures = [(test, name) for test, name in tests if test["outcome"] in ("failed", "error")]
        if failures:
            lines += ["", "failed; ./inv test --failed repeats them"]
            lines += [f"  {_repeat(name, test['id'])}" for test, name in failures]
        total = sum((run.counts for run in self._runs), Counter[str]())
        seconds = time.monotonic() - self._began
        return [*lines, "", f"{tally_counts(total)} in {as_minutes(seconds)}"]

    def _keep(self) -> None:
        """Keep how long tests took, and which failed, for the next run."""
        for run in self._runs:
            seconds = {test["id"]: test["seconds"] for test in run.tests}
            self._durations[run.name] = {**self._durations.get(run.name, {}), **seconds}
        failed = {run.name: [test["id"] for test in run.failures] for run in self._runs}
        older = _read(self._root / RECORDS / _FAILED)
        for name, value in ((_DURATIONS, self._durations), (_FAILED, {**older, **failed})):
            with replacing_file(self._root / RECORDS / name) as stream:
                json.dump(value, stream)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a pytest as Ctrl-C does, so that its fixtures leave nothing behind."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    process.kill()


def failed_last(root: Path) -> dict[str, list[str]]:
    """Return the ids of the tests that failed when they were last run, by suite."""
    return {name: ids for name, ids in _read(root / RECORDS / _FAILED).items() if ids}


def _read(path: Path) -> dict[str, Any]:
    """Return what was kept; nothing where that is not whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _failure(suite: str, test: Mapping[str, Any]) -> str:
    """Return what is shown of a test the moment it fails."""
    heading = f"{suite}: {test['outcome']}: {test['id']}"
    return f"\n{heading}\n{test['text']}\nto repeat it: {_repeat(suite, test['id'])}\n"


def _repeat(suite: str, name: str) -> str:
    return f"./inv test --suite {suite} --only '{name}'"

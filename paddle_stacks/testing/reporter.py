"""A pytest plugin that writes what happens to a file, for a program that shows it.

Each line is a JSON object: ``{"collected": [ID, …]}`` once, then ``{"id", "outcome", "seconds",
"text", "notes"}`` at the end of each test. ``text`` is the failure as pytest shows it, or the
reason of a skip; ``notes`` are what the test recorded for the summary
(``record_property("note", …)``).
"""

from __future__ import annotations

import ctypes
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

__all__ = ["OPTION", "Reporter", "pytest_addoption", "pytest_configure"]

OPTION = "--events"
_PR_SET_PDEATHSIG = 1
_ORDER = ("error", "failed", "skipped", "passed")


class Reporter:
    """Writes the events of one pytest session.

    Args:
        path: the file to append to.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("a", encoding="utf-8")
        self._phases: dict[str, list[pytest.TestReport]] = {}
        self._collected = False

    def _write(self, **event: object) -> None:
        print(json.dumps(event), file=self._stream, flush=True)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Write the ids of the selected tests."""
        self._write_ids([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Write the ids that a worker has selected; all workers select the same."""
        self._write_ids(ids)

    def _write_ids(self, ids: Sequence[str]) -> None:
        if ids and not self._collected:
            self._collected = True
            self._write(collected=list(ids))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Write a file that cannot be collected as a test that ended in an error."""
        if report.failed:
            self._write(id=report.nodeid, outcome="error", seconds=0.0, text=report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a test's outcome when its last phase has ended."""
        phases = self._phases.setdefault(report.nodeid, [])
        phases.append(report)
        if report.when != "teardown":
            return
        del self._phases[report.nodeid]
        outcome, text = min(map(_outcome, phases), key=lambda pair: _ORDER.index(pair[0]))
        seconds = round(sum(phase.duration for phase in phases), 3)
        notes = [value for name, value in report.user_properties if name == "note"]
        self._write(id=report.nodeid, outcome=outcome, seconds=seconds, text=text, notes=notes)


def _outcome(phase: pytest.TestReport) -> tuple[str, str]:
    """Return a phase's outcome, and its text."""
    if phase.failed:
        return ("failed" if phase.when == "call" else "error"), phase.longreprtext
    if phase.skipped:
        reason = phase.longrepr[2] if isinstance(phase.longrepr, tuple) else phase.longreprtext
        return "skipped", reason.removeprefix("Skipped: ")
    return "passed", ""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the file."""
    parser.addoption(OPTION, metavar="FILE", help="append what happens to FILE, as JSON lines")


def pytest_configure(config: pytest.Config) -> None:
    """Register the reporter in the process that sees all tests."""
    path = config.getoption(OPTION)
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Reporter(Path(path)))
        # Killed, ./inv cannot end its suites: then they end as at Ctrl-C, with their containers.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        # A shell starts what it puts in the background with SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)

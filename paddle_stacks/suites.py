"""The suites of tests, and running several of them beside each other.

Many tests wait: for a container, for a library's imports, for one thread of a job. Another
suite has the core meanwhile. Each is a pytest of its own, whose words come in one piece when
it has ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddle_stacks.verify import Outcome

__all__ = ["AT_ONCE", "SUITES", "Suite", "folders", "run"]

AT_ONCE = 2
"""Suites that run beside each other: as many as CI's machine has cores."""

_RECORDS = Path(".cache", "test")
_NOTHING_SELECTED = 5  # pytest's exit status


@dataclass(frozen=True)
class Suite:
    """Tests that are run together.

    Args:
        about: what they prove, in a few words.
        folders: of the tests.
        backend: the platform whose images they are about.
    """

    about: str
    folders: tuple[str, ...]
    backend: str = "cpu"


# In the order in which they begin: the long ones first, so that none is left for the end.
SUITES: Mapping[str, Suite] = {
    "jobs": Suite("real jobs in real containers", ("tests/jobs",)),
    "faults": Suite("real jobs, killed, starved and lied to", ("tests/faults",)),
    "bundle": Suite(
        "from a folder to a fine-tuned model on a machine without a network", ("tests/bundle",)
    ),
    "docs": Suite("the documents' commands, as they are written", ("tests/docs",)),
    "unit": Suite("no engine, minutes", ("tests/unit", "tests/fuzz")),
    "dcu-sim": Suite(
        "the DCU's stages, images and jobs on a simulated DCU",
        ("tests/images", "tests/dcu_sim"),
        "dcu-sim",
    ),
    "cluster": Suite("jobs on a real Slurm of three machines", ("tests/cluster",)),
    "images": Suite("testinfra against the built images", ("tests/images",)),
    "isolation": Suite(
        "what a job must not be able to do, tried in real containers", ("tests/isolation",)
    ),
}


@dataclass(frozen=True)
class _Ended:
    """A suite that has ended: pytest's status, how each test ended, and seconds."""

    status: int
    outcomes: list[Outcome]
    seconds: float


def folders() -> dict[str, list[str]]:
    """Return the folders of all suites, for each backend that they are run on."""
    found: dict[str, list[str]] = {}
    for suite in SUITES.values():
        found.setdefault(suite.backend, []).extend(suite.folders)
    return found


def run(root: Path, suites: Mapping[str, Suite], selected: Sequence[str] = ()) -> int:
    """Run suites, and return the first bad exit status of their pytests, or 0.

    One suite speaks as it goes. Of several each one's words are printed when it has ended,
    then a line for each and the sum.

    Args:
        root: the repository's root.
        suites: by name; they begin in this order.
        selected: more arguments of pytest, that select tests; the folders then count as not run.
    """
    if len(suites) == 1:
        [(name, suite)] = suites.items()
        return _run(root, name, suite, selected, None).status
    from paddle_stacks import verify

    began = time.monotonic()
    ended = _run_beside(root, suites, selected)
    for name in suites:
        print(f"{name:<9} {verify.tally(ended[name].outcomes):<40} {_minutes(ended[name].seconds)}")
    every = [outcome for one in ended.values() for outcome in one.outcomes]
    print(f"{verify.tally(every)} in {_minutes(time.monotonic() - began)}", flush=True)
    # That nothing is selected is no fault of a suite among others.
    statuses = [one.status for one in ended.values() if one.status != _NOTHING_SELECTED]
    return next((status for status in statuses if status), 0 if every else _NOTHING_SELECTED)


def _run_beside(
    root: Path, suites: Mapping[str, Suite], selected: Sequence[str]
) -> dict[str, _Ended]:
    ended: dict[str, _Ended] = {}
    logs = {name: root / _RECORDS / f"{name}.log" for name in suites}
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        running = {
            pool.submit(_run, root, name, suite, selected, logs[name]): name
            for name, suite in suites.items()
        }
        for done in as_completed(running):
            name = running[done]
            ended[name] = done.result()
            words = logs[name].read_text(encoding="utf-8", errors="replace")
            print(f"== {name}\n{words}", flush=True)
    finally:
        # After Ctrl-C, which the pytests have had too, none begins any more.
        pool.shutdown(cancel_futures=True)
    return ended


def _run(root: Path, name: str, suite: Suite, selected: Sequence[str], log: Path | None) -> _Ended:
    from paddle_stacks import verify

    began = time.monotonic()
    if log is not None:
        print(f"{name} begins: {suite.about}; {log.relative_to(root)}", file=sys.stderr, flush=True)
    record = root / _RECORDS / f"{name}.xml"
    arguments = [*suite.folders, *selected]
    status, outcomes = verify.run_tests(root, suite.backend, arguments, record, log)
    if not selected:
        verify.write_records(root, suite.backend, suite.folders, status, outcomes)
    return _Ended(status, outcomes, time.monotonic() - began)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"

"""Tests of built images, and reports of their results.

A report is a JSON document, and the same as Markdown to attach to an issue: the images with
their labels, the doctor's findings, and the outcomes of all tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_stacks.errors import JobError, StackError
from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.provenance import attestation
from paddle_stacks.revision import revision
from paddle_stacks.settings import PREFIX, Settings

if TYPE_CHECKING:
    from paddle_stacks.images import Image

__all__ = [
    "BUILDING",
    "RECORDS",
    "Outcome",
    "Record",
    "as_markdown",
    "attest",
    "check_images",
    "exit_status",
    "outcomes",
    "read_record",
    "report",
    "run_tests",
    "tally",
    "tally_counts",
    "write",
    "write_records",
    "write_report",
]

RECORDS = Path(".cache", "test")
"""The folder of the tests' records, in the checkout."""
BUILDING = ("tests/images/test_three_ways.py", "tests/images/test_repeatable.py")
"""The tests that build images. A verification excludes them, because they need a network and
do not test the existing images."""

_REPORTS = Path(".cache", "verify")
_INTERRUPTED = 2  # of pytest's exit statuses
_LABELS = (
    "org.opencontainers.image.revision",
    "org.opencontainers.image.created",
    "org.opencontainers.image.base.name",
    "org.opencontainers.image.base.digest",
    "paddle-stacks.lock",
    "paddle-stacks.paddle.version",
    "paddle-stacks.paddlenlp.version",
    "paddle-stacks.paddlenlp.source",
    "paddle-stacks.ops.archs",
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a test.

    Args:
        test: its file and name.
        result: ``passed``, ``failed``, ``error`` or ``skipped``.
        why: the reason or the first line of the error; empty if it passed.
        image: the image that it tested; empty for all of them.
        table: a Markdown table that it recorded for the report.
    """

    test: str
    result: str
    why: str = ""
    image: str = ""
    table: str = ""


@dataclass(frozen=True)
class Record:
    """The result of a folder of tests for a backend.

    Args:
        revision: the commit; ends in ``-dirty`` if the checkout was modified.
        passed: whether all of them ran and none failed.
        result: the outcomes in one line.
        when: the end of the tests, in UTC, as ``2025-01-02T03:04:05Z``.
    """

    revision: str
    passed: bool
    result: str
    when: str


def write_records(
    root: Path, backend: str, folders: Sequence[str], status: int, outcomes: Sequence[Outcome]
) -> None:
    """Write a record for each folder of tests, so that one can be run again.

    Args:
        root: the repository's root.
        backend: name of the backend.
        folders: the folders of tests, such as ``tests/unit``.
        status: pytest's exit status: 0 if all passed, 1 if some failed, more if it was
            interrupted.
        outcomes: the outcomes of the tests.
    """
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    commit = revision(root)
    for folder in folders:
        here = [o for o in outcomes if o.test.startswith(folder.replace("/", ".") + ".")]
        failed = any(o.result in ("failed", "error") for o in here)
        # Skipped tests alone prove nothing.
        passed = status in (0, 1) and any(o.result == "passed" for o in here) and not failed
        with replacing_file(_record_path(root, backend, folder)) as stream:
            json.dump(asdict(Record(commit, passed, tally(here), when)), stream, indent=1)


def read_record(root: Path, backend: str, folder: str) -> Record | None:
    """Return the last record of a folder of tests; None if there is none."""
    try:
        path = _record_path(root, backend, folder)
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _record_path(root: Path, backend: str, folder: str) -> Path:
    return root / RECORDS / f"{backend}-{Path(folder).name}.json"


def run_tests(
    root: Path, backend: str, arguments: Sequence[str], record: Path, log: Path | None = None
) -> tuple[int, list[Outcome]]:
    """Run pytest for a backend; return its exit status and the outcomes.

    Args:
        root: the repository's root.
        backend: name of the backend whose images are tested.
        arguments: folders and options of pytest.
        record: the file for pytest's outcomes.
        log: the file for pytest's output; None for this program's output.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *arguments, f"--junitxml={record}"]
    # Unbuffered, so that a log can be followed.
    environment = {**os.environ, f"{PREFIX}BACKEND": backend, "PYTHONUNBUFFERED": "1"}
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else None
        status = subprocess.run(
            command, cwd=root, env=environment, stdout=output, stderr=output, check=False
        ).returncode
    return status, outcomes(record) if record.is_file() else []


def outcomes(record: Path) -> list[Outcome]:
    """Return the outcomes in a JUnit file.

    Raises:
        JobError: the file is damaged, because pytest was killed while writing it.
    """
    try:
        cases = list(ElementTree.parse(record).getroot().iter("testcase"))
    except ElementTree.ParseError as error:
        raise JobError(
            f"the tests' outcomes cannot be read: {error}",
            where=str(record),
            remedy="run it again; pytest's output above has the reason",
        ) from error
    return [_outcome(case) for case in cases]


def _outcome(case: ElementTree.Element) -> Outcome:
    name = f"{case.get('classname', '')}::{case.get('name', '')}"
    image, table = _property(case, "image"), _property(case, "table")
    for kind, result in (("failure", "failed"), ("error", "error"), ("skipped", "skipped")):
        element = case.find(kind)
        if element is not None:
            why = (element.get("message") or "").strip().splitlines()
            return Outcome(name, result, why[0] if why else "", image, table)
    return Outcome(name, "passed", image=image, table=table)


def _property(case: ElementTree.Element, name: str) -> str:
    properties = case.iterfind(f"properties/property[@name='{name}']")
    return next((entry.get("value", "") for entry in properties), "")


def attest(
    outcomes: Sequence[Outcome], before: Sequence[Image], after: Sequence[Image], settings: Settings
) -> list[str]:
    """Write an attestation for each image that was tested; return a line for each.

    A test of all images counts for each of them.

    Args:
        outcomes: the outcomes of the tests.
        before: the images before the tests.
        after: the images after the tests.
        settings: the folder of attestations, and the checkout.
    """
    folder = attestation.folder(settings)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ids = {image.name: image.id for image in after}
    commit = revision(settings.root)
    lines = []
    for image in before:
        if not any(outcome.image == image.name for outcome in outcomes):
            continue
        if ids.get(image.name) != image.id:
            lines.append(f"{image.name}: rebuilt while its tests ran; run ./inv verify again")
            continue
        of_image = [outcome for outcome in outcomes if outcome.image in ("", image.name)]
        names = {
            result: tuple(o.test for o in of_image if o.result == result)
            for result in ("passed", "failed", "error", "skipped")
        }
        record = attestation.Attestation(
            image.id,
            image.tags[0],
            when,
            commit,
            names["passed"],
            (*names["failed"], *names["error"]),
            names["skipped"],
        )
        path = attestation.write(folder, record)
        state = "verified" if record.verified else "not verified"
        lines.append(f"{image.name}: {state}, {tally(of_image)}: {path}")
    return lines


def tally(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes in one line, like pytest: ``212 passed, 3 skipped``."""
    return tally_counts(Counter(outcome.result for outcome in outcomes))


def tally_counts(counts: Mapping[str, int]) -> str:
    """Return the number of tests with each outcome in one line, as :func:`tally`."""
    order = ("failed", "error", "passed", "skipped")
    return ", ".join(f"{counts[name]} {name}" for name in order if counts.get(name)) or "no tests"


def check_images(settings: Settings, only: str | None = None) -> tuple[int, dict[str, Any]]:
    """Test the built images, write attestations, and return exit status and report.

    Args:
        settings: the backend and the folders.
        only: one image; None for all built ones.

    Raises:
        RequestError: the image ``only`` does not exist.
        MachineError: no image is built, or the engine does not respond.
    """
    from paddle_stacks import engine, images

    # First, because without images every test would fail with the same message.
    client = engine.connect()
    built = images.inspect_all(client, settings.backend)
    if only:
        images.inspect_all(client, settings.backend, only)  # raises if it does not exist
    selected = [f"--image={only}"] if only else []
    selected += [f"--ignore={path}" for path in BUILDING]
    record = settings.root / RECORDS / f"verify-{settings.backend}.xml"
    arguments = ["tests/images", *selected]
    status, outcomes = run_tests(settings.root, settings.backend, arguments, record)
    for line in attest(outcomes, built, images.inspect_all(client, settings.backend), settings):
        print(line, file=sys.stderr)
    return exit_status(status), report(outcomes, built, settings)


def exit_status(status: int) -> int:
    """Return the exit status of the project for one of pytest's.

    Args:
        status: pytest's: 0 if all passed, 2 if it was interrupted, -n if it was killed by
            signal n, another one if tests failed or could not be run.
    """
    if status == 0:
        return 0
    if status < 0:
        return 128 - status
    return 128 + signal.SIGINT if status == _INTERRUPTED else JobError.status


def report(
    outcomes: Sequence[Outcome], images: Sequence[Image], settings: Settings
) -> dict[str, Any]:
    """Return the report as JSON-serializable values.

    Args:
        outcomes: the outcomes of the tests.
        images: the tested images.
        settings: the backend and the host's root.
    """
    return {
        "backend": settings.backend,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "result": tally(outcomes),
        "verified": bool(outcomes) and all(o.result in ("passed", "skipped") for o in outcomes),
        "images": [
            {
                "name": image.tags[0],
                "id": image.id,
                "labels": {k: v for k, v in image.labels.items() if k in _LABELS},
            }
            for image in images
        ],
        "doctor": _doctor(settings),
        "tests": [vars(outcome) for outcome in outcomes],
    }


def _doctor(settings: Settings) -> Any:
    """Return the doctor's report on the machine."""
    from paddle_stacks import doctor
    from paddle_stacks.doctor import show
    from paddle_stacks.plan import backend

    platform = backend.load(settings.backend, settings.root)
    try:
        checks = doctor.checks_for(platform.name)
        return show.as_json(
            platform.name, list(doctor.examine(doctor.Machine(settings, platform), checks))
        )
    except StackError as error:
        return {"error": str(error)}


def as_markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown, failures first."""
    lines = [
        f"# Verification of {report['backend']}, {report['when']}",
        "",
        f"**{report['result']}**: the images are {'' if report['verified'] else 'not '}verified.",
        "",
        "| image | id | revision | operators for |",
        "|---|---|---|---|",
    ]
    for image in report["images"]:
        labels = image["labels"]
        revision = labels.get("org.opencontainers.image.revision", "unknown")
        archs = labels.get("paddle-stacks.ops.archs", "")
        short = image["id"].removeprefix("sha256:")[:12]
        lines.append(f"| {image['name']} | {short} | {revision} | {archs} |")
    lines += ["", "## This machine", ""]
    findings = report["doctor"].get("findings")
    if findings is None:
        lines.append(f"The doctor failed: {report['doctor'].get('error', '')}")
    for finding in findings or ():
        lines.append(f"* {finding['severity']}: {finding['check']}: {finding['saw']}")
    for result, heading in (("failed", "Failed"), ("error", "Errors"), ("skipped", "Skipped")):
        rows = [test for test in report["tests"] if test["result"] == result]
        if rows:
            lines += ["", f"## {heading}", ""]
            lines += [f"* `{row['test']}`: {row['why']}" for row in rows]
    for test in report["tests"]:
        if test.get("table"):
            lines += ["", f"## {test['test']}", "", test["table"]]
    passed = [test["test"] for test in report["tests"] if test["result"] == "passed"]
    lines += ["", "## Passed", "", *(f"* `{name}`" for name in passed), ""]
    return "\n".join(lines)


def write(root: Path, report: dict[str, Any]) -> Path:
    """Write the report as JSON and Markdown; return the Markdown file."""
    return write_report(root / _REPORTS, report, as_markdown(report))


def write_report(folder: Path, report: dict[str, Any], markdown: str) -> Path:
    """Write a report and its JSON, named after backend and time; return the Markdown file."""
    stamp = report["when"].replace(":", "").replace("-", "")
    path = folder / f"{report['backend']}-{stamp}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path.with_suffix(".json")) as stream:
        json.dump(report, stream, indent=1, ensure_ascii=False)
    with replacing_file(path) as stream:
        stream.write(markdown)
    return path

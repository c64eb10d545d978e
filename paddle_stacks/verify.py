"""Run the checks of the built images and keep what they found, for whoever was not there.

The report is one JSON document, and the same as Markdown to attach to an issue: the
images and what their labels say, the doctor's findings, and every test with its outcome.
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
]

RECORDS = Path(".cache", "test")
"""The folder, below the checkout, of what tests write about themselves."""
BUILDING = ("tests/images/test_three_ways.py", "tests/images/test_repeatable.py")
"""The tests that build: it is not what a verification is asked for, needs a network, and
would make other images than those that are here."""

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
    """How one test ended.

    Args:
        test: its file and name.
        result: ``passed``, ``failed``, ``error`` or ``skipped``.
        why: the reason or the first line of the fault; empty where it passed.
        image: the image that it looked into; empty where it looked at all of them.
        table: a table in Markdown that it recorded for the report.
    """

    test: str
    result: str
    why: str = ""
    image: str = ""
    table: str = ""


@dataclass(frozen=True)
class Record:
    """That a folder of tests was run for a platform, and how it ended.

    Args:
        revision: the commit; ends in ``-dirty`` where the checkout was edited.
        passed: whether all of them ran, and none failed.
        result: the outcomes in a line.
        when: the end of the tests, in UTC, as ``2025-01-02T03:04:05Z``.
    """

    revision: str
    passed: bool
    result: str
    when: str


def write_records(
    root: Path, backend: str, folders: Sequence[str], status: int, found: Sequence[Outcome]
) -> None:
    """Keep that folders of tests were run, a record for each, so that one can be run again.

    Args:
        root: the repository's root.
        backend: the platform that they were run for.
        folders: all that was run, as ``tests/unit``.
        status: pytest's: 0 if all passed, 1 if some failed, more if it was cut off.
        found: how the tests ended.
    """
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    commit = revision(root)
    for folder in folders:
        here = [o for o in found if o.test.startswith(folder.replace("/", ".") + ".")]
        failed = any(o.result in ("failed", "error") for o in here)
        # Skipped alone proves nothing.
        passed = status in (0, 1) and any(o.result == "passed" for o in here) and not failed
        with replacing_file(_record_path(root, backend, folder)) as stream:
            json.dump(asdict(Record(commit, passed, tally(here), when)), stream, indent=1)


def read_record(root: Path, backend: str, folder: str) -> Record | None:
    """Return what was kept last of a folder of tests; None where there is nothing whole."""
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
    """Run pytest for a backend; return its exit status and how each test ended.

    Args:
        root: the repository's root.
        backend: the platform whose images are looked into.
        arguments: folders and options of pytest.
        record: the file that pytest writes its outcomes to.
        log: the file that it speaks into, instead of this program's output.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *arguments, f"--junitxml={record}"]
    # Unbuffered, so that who waits can follow a log.
    environment = {**os.environ, f"{PREFIX}BACKEND": backend, "PYTHONUNBUFFERED": "1"}
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else None
        status = subprocess.run(
            command, cwd=root, env=environment, stdout=output, stderr=output, check=False
        ).returncode
    return status, outcomes(record) if record.is_file() else []


def outcomes(record: Path) -> list[Outcome]:
    """Return what a JUnit file of pytest's tells.

    Raises:
        JobError: it is no such file: pytest was ended while it wrote.
    """
    try:
        cases = list(ElementTree.parse(record).getroot().iter("testcase"))
    except ElementTree.ParseError as error:
        raise JobError(
            f"the tests' outcomes cannot be read: {error}",
            where=str(record),
            remedy="run it again; what pytest says above is the reason",
        ) from error
    return [_outcome(case) for case in cases]


def _outcome(case: ElementTree.Element) -> Outcome:
    name = f"{case.get('classname', '')}::{case.get('name', '')}"
    image, table = _property(case, "image"), _property(case, "table")
    for kind, result in (("failure", "failed"), ("error", "error"), ("skipped", "skipped")):
        found = case.find(kind)
        if found is not None:
            why = (found.get("message") or "").strip().splitlines()
            return Outcome(name, result, why[0] if why else "", image, table)
    return Outcome(name, "passed", image=image, table=table)


def _property(case: ElementTree.Element, name: str) -> str:
    properties = case.iterfind(f"properties/property[@name='{name}']")
    return next((entry.get("value", "") for entry in properties), "")


def attest(
    found: Sequence[Outcome], before: Sequence[Image], after: Sequence[Image], settings: Settings
) -> list[str]:
    """Keep an attestation for each image that was looked into; return a line for each.

    A test that looks at all images counts for each of them.

    Args:
        found: how the tests ended.
        before: the images as they were when the tests began.
        after: as they were when these had ended.
        settings: where attestations are kept, and whose checkout the tests are of.
    """
    folder = attestation.folder(settings)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ids = {image.name: image.id for image in after}
    commit = revision(settings.root)
    lines = []
    for image in before:
        if not any(outcome.image == image.name for outcome in found):
            continue
        if ids.get(image.name) != image.id:
            lines.append(f"{image.name}: built anew while its tests ran: ./inv verify again")
            continue
        of_image = [outcome for outcome in found if outcome.image in ("", image.name)]
        names = {
            result: tuple(o.test for o in of_image if o.result == result)
            for result in ("passed", "failed", "error", "skipped")
        }
        made = attestation.Attestation(
            image.id,
            image.tags[0],
            when,
            commit,
            names["passed"],
            (*names["failed"], *names["error"]),
            names["skipped"],
        )
        path = attestation.write(folder, made)
        state = "verified" if made.verified else "not verified"
        lines.append(f"{image.name}: {state}, {tally(of_image)}: {path}")
    return lines


def tally(found: Sequence[Outcome]) -> str:
    """Return the outcomes in a line, as pytest does: ``212 passed, 3 skipped``."""
    return tally_counts(Counter(outcome.result for outcome in found))


def tally_counts(counts: Mapping[str, int]) -> str:
    """Return how many tests ended with each outcome, as :func:`tally` does."""
    order = ("failed", "error", "passed", "skipped")
    return ", ".join(f"{counts[name]} {name}" for name in order if counts.get(name)) or "no tests"


def check_images(settings: Settings, only: str | None = None) -> tuple[int, dict[str, Any]]:
    """Test the built images, keep attestations of them, and return exit status and report.

    Args:
        settings: the backend whose images, and where things are kept.
        only: one image; None for all that are built.

    Raises:
        RequestError: ``only`` is none of them.
        MachineError: no image is built, or no engine answers.
    """
    from paddle_stacks import engine, images

    # First, since without any image every test would say the same.
    client = engine.connect()
    built = images.inspect_all(client, settings.backend)
    if only:
        images.inspect_all(client, settings.backend, only)  # says which there are
    selected = [f"--image={only}"] if only else []
    selected += [f"--ignore={path}" for path in BUILDING]
    record = settings.root / RECORDS / f"verify-{settings.backend}.xml"
    arguments = ["tests/images", *selected]
    status, found = run_tests(settings.root, settings.backend, arguments, record)
    for line in attest(found, built, images.inspect_all(client, settings.backend), settings):
        print(line, file=sys.stderr)
    return exit_status(status), report(found, built, settings)


def exit_status(status: int) -> int:
    """Return the exit status of the project for one of pytest's.

    Args:
        status: pytest's: 0 if all passed, 2 if it was interrupted, -n if signal n ended it,
            and another one if tests failed or could not be run.
    """
    if status == 0:
        return 0
    if status < 0:
        return 128 - status
    return 128 + signal.SIGINT if status == _INTERRUPTED else JobError.status


def report(found: Sequence[Outcome], images: Sequence[Image], settings: Settings) -> dict[str, Any]:
    """Return the report as a value that JSON can hold.

    Args:
        found: how the tests ended.
        images: those that they looked into.
        settings: the backend, and where the host is looked at.
    """
    return {
        "backend": settings.backend,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "result": tally(found),
        "verified": bool(found) and all(o.result in ("passed", "skipped") for o in found),
        "images": [
            {
                "name": image.tags[0],
                "id": image.id,
                "labels": {k: v for k, v in image.labels.items() if k in _LABELS},
            }
            for image in images
        ],
        "doctor": _doctor(settings),
        "tests": [vars(outcome) for outcome in found],
    }


def _doctor(found: Settings) -> Any:
    """Return the doctor's own document: it looks at the machine, not at the images."""
    from paddle_stacks import doctor
    from paddle_stacks.doctor import show
    from paddle_stacks.plan import backend

    platform = backend.load(found.backend, found.root)
    try:
        checks = doctor.checks_for(platform.name)
        return show.as_json(
            platform.name, list(doctor.examine(doctor.Machine(found, platform), checks))
        )
    except StackError as error:
        return {"error": str(error)}


def as_markdown(found: dict[str, Any]) -> str:
    """Return the report for a person: what failed first."""
    lines = [
        f"# Verification of {found['backend']}, {found['when']}",
        "",
        f"**{found['result']}**: the images are {'' if found['verified'] else 'not '}verified.",
        "",
        "| image | id | revision | operators for |",
        "|---|---|---|---|",
    ]
    for image in found["images"]:
        labels = image["labels"]
        revision = labels.get("org.opencontainers.image.revision", "unknown")
        archs = labels.get("paddle-stacks.ops.archs", "")
        short = image["id"].removeprefix("sha256:")[:12]
        lines.append(f"| {image['name']} | {short} | {revision} | {archs} |")
    lines += ["", "## This machine", ""]
    findings = found["doctor"].get("findings")
    if findings is None:
        lines.append(f"The doctor could not look: {found['doctor'].get('error', '')}")
    for finding in findings or ():
        lines.append(f"* {finding['severity']}: {finding['check']}: {finding['saw']}")
    for result, heading in (("failed", "Failed"), ("error", "Errors"), ("skipped", "Skipped")):
        rows = [test for test in found["tests"] if test["result"] == result]
        if rows:
            lines += ["", f"## {heading}", ""]
            lines += [f"* `{row['test']}`: {row['why']}" for row in rows]
    for test in found["tests"]:
        if test.get("table"):
            lines += ["", f"## {test['test']}", "", test["table"]]
    passed = [test["test"] for test in found["tests"] if test["result"] == "passed"]
    lines += ["", "## Passed", "", *(f"* `{name}`" for name in passed), ""]
    return "\n".join(lines)


def write(root: Path, found: dict[str, Any]) -> Path:
    """Write the report beside its JSON; return the Markdown file."""
    stamp = found["when"].replace(":", "").replace("-", "")
    path = root / _REPORTS / f"{found['backend']}-{stamp}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path.with_suffix(".json")) as stream:
        json.dump(found, stream, indent=1, ensure_ascii=False)
    with replacing_file(path) as stream:
        stream.write(as_markdown(found))
    return path

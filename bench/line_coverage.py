"""Measure which lines of the project its tests execute, on the host and in containers.

``.venv/bin/python bench/line_coverage.py [--revision REV] [--suite NAME]… [PYTEST OPTION]…``

Every Python process is measured: pytest, its subprocesses, jobs in containers under any user,
forked children. Not measured: processes that are killed (SIGKILL, or SIGTERM without a
handler) and containers of engines that the tests start themselves. Prints a table and writes
the same as JSON (``--output``), with each file's missing lines. ``.cache/coverage/coverage.sqlite``
has the tests that execute each line, for ``bench/mutants.py``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from checkout import ROOT, Checkout, Suite, say

PACKAGES = ("paddle_stacks", "entrypoints")
DATABASE = "coverage.sqlite"
_AT_ONCE = 500  # files that one command combines


def run_suite(checkout: Checkout, name: str, suite: Suite, options: list[str]) -> dict[str, Any]:
    """Run a suite under measurement; return its result."""
    began = time.monotonic()
    parallel = ["-n", "2", "--dist", "worksteal"] if suite.is_parallel else []
    folders = [folder for folder in suite.folders if (checkout.root / folder).is_dir()]
    record = checkout.work / "records" / f"{name}.xml"
    status = checkout.pytest([*folders, *parallel, *options], suite.backend, record)
    seconds = round(time.monotonic() - began)
    return {"status": status, "seconds": seconds, "tests": tally(record)}


def tally(record: Path) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped, from a JUnit file."""
    counts: Counter[str] = Counter()
    if record.is_file():
        for case in ElementTree.parse(record).getroot().iter("testcase"):
            kinds = ("failure", "error", "skipped")
            counts[next((kind for kind in kinds if case.find(kind) is not None), "passed")] += 1
    return dict(counts)


def combine(checkout: Checkout) -> None:
    """Add the data of all processes to the database."""
    settings = checkout.work / "combine.rc"
    settings.write_text(checkout.settings(str(checkout.work / DATABASE)))
    files = [
        str(path) for path in checkout.data.rglob("*.pid*") if not path.name.endswith("-journal")
    ]
    command = [str(checkout.python), "-m", "coverage", "combine", "--append", "--quiet"]
    for start in range(0, len(files), _AT_ONCE):
        done = subprocess.run(
            [*command, f"--rcfile={settings}", *files[start : start + _AT_ONCE]],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            say(f"coverage combine: {(done.stdout + done.stderr).strip()[-400:]}")


def report(checkout: Checkout) -> dict[str, Any]:
    """Return the lines of every file of the packages, including files that no test imports."""
    code = f"""
import json, pathlib, sys, coverage
found = coverage.Coverage(data_file={str(checkout.work / DATABASE)!r}, config_file=False)
found.load()
files = {{}}
for package in {PACKAGES!r}:
    for path in sorted(pathlib.Path(package).rglob("*.py")):
        if found.get_data():  # else there is nothing that a file could be added to
            found.get_data().touch_file(str(path.resolve()))
        _, lines, _, missing, _ = found.analysis2(str(path.resolve()))
        files[str(path)] = {{"lines": len(lines), "missing": missing}}
json.dump(files, sys.stdout)
"""
    done = subprocess.run(
        [str(checkout.python), "-c", code],
        cwd=checkout.root,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    files = json.loads(done.stdout)
    packages = {}
    for package in PACKAGES:
        inside = [entry for name, entry in files.items() if name.startswith(f"{package}/")]
        lines = sum(entry["lines"] for entry in inside)
        covered = lines - sum(len(entry["missing"]) for entry in inside)
        percent = round(100 * covered / max(1, lines), 2)
        packages[package] = {"lines": lines, "covered": covered, "percent": percent}
    return {"packages": packages, "files": files}


def table(document: dict[str, Any]) -> str:
    """Return the packages as a Markdown table."""
    lines = ["| package | lines | covered | percent |", "|---|--:|--:|--:|"]
    lines += [
        f"| {name} | {entry['lines']} | {entry['covered']} | {entry['percent']} |"
        for name, entry in document["packages"].items()
    ]
    return "\n".join(lines)


def main() -> int:
    """Run the suites, and print and write what they execute."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revision", default="HEAD", help="the commit to measure")
    parser.add_argument("--suite", action="append", help="one of its suites; default: all")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "coverage")
    parser.add_argument("--output", type=Path, default=ROOT / ".cache" / "coverage.json")
    parser.add_argument("--keep", action="store_true", help="add to what was measured before")
    arguments, options = parser.parse_known_args()
    checkout = Checkout(arguments.work, arguments.revision)
    suites = checkout.suites()
    ended: dict[str, Any] = {}
    if arguments.keep and arguments.output.is_file():
        ended = json.loads(arguments.output.read_text())["suites"]
    elif not arguments.keep:
        (checkout.work / DATABASE).unlink(missing_ok=True)
        shutil.rmtree(checkout.data, ignore_errors=True)
    checkout.observe([], measured=True)
    for name in arguments.suite or suites:
        say(f"{name} begins")
        ended[name] = run_suite(checkout, name, suites[name], options)
        combine(checkout)
        document = {"revision": checkout.revision, "suites": ended, **report(checkout)}
        arguments.output.write_text(json.dumps(document, indent=1))
        say(f"{name}: {ended[name]}\n{table(document)}")
    checkout.observe([], measured=False)
    print(table(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())

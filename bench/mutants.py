"""Seed faults in the code and count those that the tests catch.

``.venv/bin/python bench/mutants.py [--seed N --count N] [--tier fast|all] [--only N,N…]``

Without ``--seed`` the faults are those of ``mutants.json``; ``--seed N --write`` replaces them.
Each fault is applied to a clone (``.cache/mutants``), never to the working tree; containers get
the clone's code mounted over their own. The tests of a fault are those that executed the line
when ``bench/line_coverage.py`` measured (``--contexts``), then the test files that its area
names below; with ``--no-containers`` only unit tests and fuzz among them. A test that fails
without the fault too does not count as catching it. Prints a line for each fault and a table of
areas, and writes both as JSON (``--output``).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from checkout import ROOT, Checkout, say
from line_coverage import DATABASE

LIST = Path(__file__).with_name("mutants.json")
# An area's modules and test files, as glob patterns. Tests of other areas that execute a line
# are found in the coverage data.
AREAS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "plan": (("paddle_stacks/plan/*.py",), ("unit/test_plan*", "unit/test_slurm*")),
    "preflight": (("paddle_stacks/preflight.py",), ("unit/test_preflight*",)),
    "settings": (("paddle_stacks/settings.py",), ("unit/test_settings*",)),
    "schema": (("paddle_stacks/jobs/schema/*.py",), ("unit/test_schema*", "fuzz/test_fuzz*")),
    "executors": (("paddle_stacks/executors/*.py",), ("unit/test_exec*", "jobs/test_host*")),
    "provenance": (
        ("paddle_stacks/provenance/*.py",),
        ("unit/test_attest*", "unit/test_contents*", "unit/test_vuln*", "unit/test_licen*"),
    ),
    "doctor": (("paddle_stacks/doctor/*.py",), ("unit/test_doctor*",)),
    "bundle": (("paddle_stacks/bundle/*.py",), ("unit/test_bundle*",)),
    "files": (
        ("paddle_stacks/jobs/files.py", "paddle_stacks/jobs/workspace.py"),
        ("unit/test_files*", "unit/test_workspace*"),
    ),
    "training": (
        ("entrypoints/finetuning/*.py", "entrypoints/training/*.py"),
        ("unit/test_finetune*", "jobs/test_finetune*", "jobs/test_parallel*"),
    ),
    "inference": (
        ("entrypoints/inference/*.py",),
        ("unit/test_infer*", "unit/test_sampling*", "unit/test_generate*", "jobs/test_infer*"),
    ),
    "serving": (("entrypoints/serving/*.py",), ("unit/test_serve*", "jobs/test_serve.py")),
    "fetching": (("entrypoints/fetching/*.py",), ("unit/test_fetch*", "unit/test_gguf*")),
    "preparing": (
        ("entrypoints/preparing/*.py",),
        ("unit/test_prepare*", "jobs/test_prepare*"),
    ),
}
KINDS = ("comparison turned", "boundary moved", "check skipped", "call left out", "constant")
_TURNED = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_TURNED |= {"in": "not in", "not in": "in", "is": "is not", "is not": "is"}
_MOVED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_LEFT_OUT = re.compile(r"rename|replace|fsync|flush|unlink|chmod|mkdir|append|add|update|close")
_MAX_UNIT, _MAX_CONTAINER = 400, 25  # tests of one line
_SECONDS = 1200  # for the tests of one fault; longer means that it hangs
_EXPECTED = (0, 1, 2, 5)  # pytest: passed, failed, a file could not be imported, nothing selected
HANGS = "(hangs)"


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault.

    Args:
        area: a key of :data:`AREAS`.
        kind: one of :data:`KINDS`.
        file: relative to the root.
        line: its number when it was chosen.
        text: the line, for locating it after other lines have moved.
        old: the replaced text, on this line and possibly the following ones.
        column: where ``old`` starts.
        new: the replacement.
    """

    area: str
    kind: str
    file: str
    line: int
    text: str
    old: str
    column: int
    new: str

    def locate(self, root: Path) -> int | None:
        """Return the line's number in a checkout; None if the code no longer exists."""
        path = root / self.file
        if not path.is_file():
            return None
        lines = path.read_text(encoding="utf-8").splitlines()
        same = [number for number, line in enumerate(lines, 1) if line == self.text]
        return min(same, key=lambda number: abs(number - self.line), default=None)

    def apply(self, root: Path) -> bool:
        """Apply the fault to a checkout; return whether the code matches."""
        line = self.locate(root)
        if line is None:
            return False
        path = root / self.file
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        start = sum(map(len, lines[: line - 1])) + self.column
        source = "".join(lines)
        if not source.startswith(self.old, start):
            return False
        changed = source[:start] + self.new + source[start + len(self.old) :]
        ast.parse(changed)
        path.write_text(changed, encoding="utf-8")
        # Bytecode counts as fresh when time, in seconds, and size are the same.
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
        return True

    def __str__(self) -> str:
        shown = [" ".join(text.split()) or "nothing" for text in (self.old, self.new)]
        return f"{self.file}:{self.line} {self.kind}: {' -> '.join(text[:60] for text in shown)}"


class Finder(ast.NodeVisitor):
    """Collects the faults that can be seeded into a module.

    Args:
        area: its area.
        file: relative to the root.
        source: its text.
    """

    def __init__(self, area: str, file: str, source: str) -> None:
        self._area, self._file, self._source = area, file, source
        self._lines = source.splitlines(keepends=True)
        self.mutants: list[Mutant] = []
        self.visit(ast.parse(source))

    def _offset(self, line: int, column: int) -> int:
        before = self._lines[line - 1].encode()[:column].decode()
        return sum(map(len, self._lines[: line - 1])) + len(before)

    def _add(self, kind: str, start: int, end: int, new: str) -> None:
        old = self._source[start:end]
        line = self._source.count("\n", 0, start) + 1
        column = start - sum(map(len, self._lines[: line - 1]))
        text = self._lines[line - 1].rstrip("\n")
        # As many lines as before, so that other lines keep their numbers.
        new += "\n" * (old.count("\n") - new.count("\n")) if kind == "call left out" else ""
        self.mutants.append(Mutant(self._area, kind, self._file, line, text, old, column, new))

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno, node.end_col_offset),
        )

    def visit_Compare(self, node: ast.Compare) -> None:
        """Invert a comparison, or move its boundary."""
        if len(node.ops) == 1:
            start, end = self._span(node.left)[1], self._span(node.comparators[0])[0]
            between = re.fullmatch(r"([\s)]*)([<>=!]+|[a-z ]+?)([\s(]*)", self._source[start:end])
            operator = between[2] if between else ""
            for kind, table in (("comparison turned", _TURNED), ("boundary moved", _MOVED)):
                if between and operator in table:
                    self._add(
                        kind, start + between.start(2), start + between.end(2), table[operator]
                    )
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        """Skip a check: its condition is never true."""
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        start, end = self._span(node.test)
        if isinstance(node.body[-1], ast.Raise | ast.Return) and not node.orelse:
            filling = "\n" * self._source.count("\n", start, end)
            self._add("check skipped", start, end, f"(False{filling})" if filling else "False")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        """Remove a call that is made for its effect."""
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
            if _LEFT_OUT.search(node.value.func.attr):
                self._add("call left out", *self._span(node), "pass")
            self.generic_visit(node)
        elif not isinstance(node.value, ast.Constant):  # docstrings
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Change a number or a truth value."""
        start, end = self._span(node)
        if isinstance(node.value, bool):
            self._add("constant", start, end, str(not node.value))
        elif isinstance(node.value, int) and self._source[start:end].isdigit():
            self._add("constant", start, end, str(node.value + 1))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Leave annotations alone."""
        if node.value:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave messages alone: before Python 3.12 their parts have no positions."""


def candidates(root: Path, area: str) -> list[Mutant]:
    """Return all faults that can be seeded into an area."""
    mutants: list[Mutant] = []
    for pattern in AREAS[area][0]:
        for path in sorted(root.glob(pattern)):
            source = path.read_text(encoding="utf-8")
            mutants += Finder(area, str(path.relative_to(root)), source).mutants
    return mutants


def choose(root: Path, seed: int, count: int) -> list[Mutant]:
    """Choose faults evenly from areas and kinds, at most one per line."""
    pick = random.Random(seed)
    every = {area: candidates(root, area) for area in AREAS}
    chosen: list[Mutant] = []
    areas = list(AREAS)
    for number in range(count):
        area = areas[number % len(areas)]
        kind = KINDS[(number + number // len(areas)) % len(KINDS)]
        taken = {(mutant.file, mutant.line) for mutant in chosen}
        left = [mutant for mutant in every[area] if (mutant.file, mutant.line) not in taken]
        chosen.append(pick.choice([m for m in left if m.kind == kind] or left))
    return chosen


class Contexts:
    """The coverage data: which tests execute a line.

    Args:
        database: written by ``bench/line_coverage.py``; need not exist.
        root: the checkout that was measured.
    """

    def __init__(self, database: Path, root: Path) -> None:
        self._connection = sqlite3.connect(database) if database.is_file() else None
        self._root = root

    def tests(self, file: str, line: int) -> list[str]:
        """Return the ids of the tests that execute a line, or its file if there are none."""
        if self._connection is None:
            return []
        rows = self._connection.execute(
            "select context.context, line_bits.numbits from line_bits"
            " join file on file.id = line_bits.file_id"
            " join context on context.id = line_bits.context_id"
            " where file.path = ? and context.context like 'tests/%'",
            (str(self._root / file),),
        ).fetchall()
        exact = [
            test for test, bits in rows if line // 8 < len(bits) and bits[line // 8] >> line % 8 & 1
        ]
        return exact or [test for test, _ in rows]


class Undecided(Exception):
    """The tests of a fault take too long, with and without the fault."""


@dataclasses.dataclass
class Verdict:
    """The result of a fault."""

    mutant: Mutant
    caught_by: str = ""
    tier: str = ""  # fast, slow, nobody; gone: the code is no longer there; undecided: too slow
    seconds: int = 0


class Hunt:
    """Runs tests on faults.

    Args:
        checkout: whose code is changed.
        contexts: the tests of a line.
        tier: ``fast`` or ``all``.
        containers: whether tests that need an engine are run.
    """

    def __init__(
        self, checkout: Checkout, contexts: Contexts, tier: str, *, containers: bool
    ) -> None:
        self._checkout = checkout
        self._containers = containers
        self._contexts = contexts
        self._tiers = {"fast": "not slow", "slow": "slow"}
        if tier == "fast":
            del self._tiers["slow"]
        root = checkout.root
        self._mounts = [
            f"{root / package}:/opt/paddle-stacks/{package}:ro"
            for package in ("paddle_stacks", "entrypoints")
        ]
        self._faulty_tests: set[str] = set()  # that fail without any fault
        self._sound_tests: set[str] = set()

    def judge(self, mutant: Mutant) -> Verdict:
        """Apply a fault and run its tests, fast ones first."""
        began = time.monotonic()
        verdict = Verdict(mutant)
        line = mutant.locate(self._checkout.root)
        if line is None:
            verdict.tier = "gone"
            return verdict
        try:
            verdict.tier, verdict.caught_by = self._first_catcher(mutant, line)
        except Undecided:
            verdict.tier = "undecided"
        verdict.seconds = round(time.monotonic() - began)
        return verdict

    def _first_catcher(self, mutant: Mutant, line: int) -> tuple[str, str]:
        """Return the tier and the test that catch a fault."""
        for ids, files in self._rounds(mutant, line):
            for tier, expression in self._tiers.items():
                test = self._catcher(mutant, ids, files, expression)
                if test:
                    return tier, test
        return "nobody", ""

    def _rounds(self, mutant: Mutant, line: int) -> Iterator[tuple[list[str] | None, list[str]]]:
        """Yield the runs of pytest: test ids (None for all) and their files."""
        tests = self._contexts.tests(mutant.file, line)
        tests = sorted(tests, key=lambda test: (Path(mutant.file).stem not in test, test))
        unit = [test for test in tests if test.startswith(("tests/unit/", "tests/fuzz/"))]
        others = [test for test in tests if test not in unit and self._containers]
        for ids in (unit[:_MAX_UNIT], others[:_MAX_CONTAINER]):
            files = self._existing(ids)
            if files:
                yield ids, files
        for pattern in AREAS[mutant.area][1]:
            if not self._containers and not pattern.startswith(("unit/", "fuzz/")):
                continue
            root = self._checkout.root
            files = [str(path.relative_to(root)) for path in root.glob(f"tests/{pattern}")]
            if files:
                yield None, sorted(files)

    def _existing(self, ids: Sequence[str]) -> list[str]:
        files = dict.fromkeys(test.partition("::")[0] for test in ids)
        return [file for file in files if (self._checkout.root / file).is_file()]

    def _catcher(
        self, mutant: Mutant, ids: list[str] | None, files: list[str], expression: str
    ) -> str:
        """Return the first test that fails because of a fault; empty if there is none."""
        while True:
            with self._mutated(mutant):
                failed = self._failing(ids, files, expression)
            if failed == [HANGS]:
                if self._failing(ids, files, expression) == [HANGS]:
                    raise Undecided
                return HANGS
            new = [test for test in failed if test not in self._sound_tests]
            for test in new:
                inside = [test] if "::" in test else None
                bad = self._failing(inside, [test.partition("::")[0]], expression)
                (self._faulty_tests if test in bad else self._sound_tests).add(test)
            caught = [test for test in failed if test not in self._faulty_tests]
            if caught or not failed:
                return caught[0] if caught else ""

    @contextlib.contextmanager
    def _mutated(self, mutant: Mutant) -> Iterator[None]:
        path = self._checkout.root / mutant.file
        original = path.read_text(encoding="utf-8")
        assert mutant.apply(self._checkout.root), f"does not fit: {mutant}"
        try:
            yield
        finally:
            path.write_text(original, encoding="utf-8")
            shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)

    def _failing(self, ids: list[str] | None, files: list[str], expression: str) -> list[str]:
        """Run tests until one fails; return the ids of those that failed."""
        self._checkout.observe(self._mounts, measured=False, selected=ids)
        record = self._checkout.work / "records" / "mutant.xml"
        backend = "dcu-sim" if "tests/dcu_sim/" in files[0] else "cpu"
        options = ["-x", "-q", "-m", expression, "-o", "junit_family=xunit1"]
        options += [f"--deselect={test}" for test in sorted(self._faulty_tests) if "::" in test]
        try:
            status = self._checkout.pytest([*files, *options], backend, record, _SECONDS)
        except subprocess.TimeoutExpired:
            return [HANGS]
        assert status in _EXPECTED, f"pytest ended with {status}: {record.with_suffix('.log')}"
        return _failed(record)


def _failed(record: Path) -> list[str]:
    """Return the ids of the tests, or the files, that failed."""
    if not record.is_file():
        return []
    failed = []
    for case in ElementTree.parse(record).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            file = case.get("file") or case.get("name", "").replace(".", "/") + ".py"
            inside = case.get("classname", "").removeprefix(file[:-3].replace("/", "."))
            parts = [part for part in inside.split(".") if part] if case.get("file") else []
            names = [file, *parts, case.get("name", "")] if case.get("file") else [file]
            failed.append("::".join(names))
    return failed


def table(verdicts: Sequence[Verdict]) -> str:
    """Return how many faults of each area which tier caught, as a Markdown table."""
    columns = ("faults", "fast", "slow", "nobody", "gone", "undecided")
    lines = ["| area | " + " | ".join(columns) + " |", "|---" + "|--:" * len(columns) + "|"]
    for area in [*dict.fromkeys(verdict.mutant.area for verdict in verdicts), "all"]:
        counts = Counter(v.tier for v in verdicts if area in (v.mutant.area, "all"))
        row = [sum(counts.values()), *(counts[column] for column in columns[1:])]
        lines.append(f"| {area} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Test the faults, and print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revision", default="HEAD", help="the commit whose tests are judged")
    parser.add_argument("--seed", type=int, help="choose faults anew; default: mutants.json")
    parser.add_argument("--count", type=int, default=42)
    parser.add_argument(
        "--write", action="store_true", help="write the chosen ones to mutants.json"
    )
    parser.add_argument("--only", help="numbers of faults, as 0,5,7; or an area")
    parser.add_argument("--tier", choices=("fast", "all"), default="all")
    parser.add_argument("--no-containers", action="store_true", help="run only unit tests and fuzz")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "mutants")
    parser.add_argument("--contexts", type=Path, default=ROOT / ".cache" / "coverage")
    parser.add_argument("--output", type=Path, default=ROOT / ".cache" / "mutants.json")
    parser.add_argument("--list", action="store_true", help="only list the faults")
    arguments = parser.parse_args()
    if arguments.seed is None:
        mutants = [Mutant(**entry) for entry in json.loads(LIST.read_text())]
    else:
        mutants = choose(ROOT, arguments.seed, arguments.count)
    if arguments.write:
        entries = [dataclasses.asdict(mutant) for mutant in mutants]
        LIST.write_text(json.dumps(entries, indent=1) + "\n")
    numbered = [
        (number, mutant)
        for number, mutant in enumerate(mutants)
        if not arguments.only or {str(number), mutant.area} & set(arguments.only.split(","))
    ]
    if arguments.list:
        print("\n".join(f"{number} {mutant}" for number, mutant in numbered))
        return 0
    checkout = Checkout(arguments.work, arguments.revision)
    contexts = Contexts(arguments.contexts / DATABASE, arguments.contexts / "checkout")
    hunt = Hunt(checkout, contexts, arguments.tier, containers=not arguments.no_containers)
    verdicts: list[Verdict] = []
    for number, mutant in numbered:
        verdicts.append(hunt.judge(mutant))
        caught = f"{verdicts[-1].tier} {verdicts[-1].caught_by}".strip()
        say(f"{number} {mutant}: {caught} ({verdicts[-1].seconds} s)")
        document: dict[str, Any] = {"revision": checkout.revision, "tier": arguments.tier}
        document["containers"] = not arguments.no_containers
        document["mutants"] = [dataclasses.asdict(verdict) for verdict in verdicts]
        arguments.output.write_text(json.dumps(document, indent=1))
    print(table(verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Variables and parameters are nouns for what they hold, not participles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BANNED = {"asked", "found", "given", "kept", "known", "made", "said", "told", "wanted", "what"}
PACKAGES = [
    "bench",
    "entrypoints",
    "images/framework",
    "images/ops",
    "images/steps",
    "paddle_stacks/build",
    "paddle_stacks/bundle",
    "paddle_stacks/cli",
    "paddle_stacks/completion",
    "paddle_stacks/dcu",
    "paddle_stacks/doctor",
    "paddle_stacks/executors",
    "paddle_stacks/explain",
    "paddle_stacks/jobs",
    "paddle_stacks/memory",
    "paddle_stacks/plan",
    "paddle_stacks/provenance",
    "paddle_stacks/simulated",
    "paddle_stacks/testing",
    "tests/support",
]


def banned_names(source: str) -> list[tuple[int, str]]:
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append((node.lineno, node.id))
        elif isinstance(node, ast.arg):
            names.append((node.lineno, node.arg))
    return [(line, name) for line, name in names if name in BANNED]


MODULES = sorted(path.name for path in (ROOT / "paddle_stacks").glob("*.py"))
# A problem's field is called what, in every package.
EXEMPT = {("errors.py", "what")}


@pytest.mark.parametrize("name", MODULES)
def test_no_variable_of_a_module_has_a_banned_name(name: str) -> None:
    names = banned_names((ROOT / "paddle_stacks" / name).read_text(encoding="utf-8"))
    assert [each for each in names if (name, each[1]) not in EXEMPT] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_variable_has_a_banned_name(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    names = {path.name: banned_names(path.read_text(encoding="utf-8")) for path in files}
    assert {file: lines for file, lines in names.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "told = 1",
        "for found in x: pass",
        "def f(what): pass",
        "[said for said in x]",
        "a, kept = x",
    ],
)
def test_assignments_arguments_and_targets_are_checked(source: str) -> None:
    assert len(banned_names(source)) == 1
    assert banned_names("print(problem.what, f(found=known()))") == []

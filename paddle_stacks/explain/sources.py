"""A program's source as syntax trees, with what a look around needs: who calls what, and where.

Names are matched as they are written: a call of ``explain(…)`` or ``api.explain(…)`` is a
call of the function ``explain`` of the module at hand, or of the only one there is.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

__all__ = ["FOLDERS", "Function", "Module", "abouts", "called", "load"]

FOLDERS = ("paddle_stacks", "entrypoints")
"""Where the project's programs are."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class Module:
    """One file.

    Args:
        path: relative to the repository's root, as ``paddle_stacks/errors.py``.
        tree: its syntax.
    """

    path: str
    tree: ast.Module

    @property
    def about(self) -> str:
        """The first paragraph of its docstring, without the full stop."""
        first = (ast.get_docstring(self.tree) or "").split("\n\n")[0]
        return " ".join(first.split()).rstrip(".").replace("``", "`")

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """What each node is a part of."""
        nodes = ast.walk(self.tree)
        return {child: node for node in nodes for child in ast.iter_child_nodes(node)}

    @cached_property
    def functions(self) -> dict[str, Function]:
        """The functions and methods, by their names."""
        found = (node for node in ast.walk(self.tree) if isinstance(node, Function))
        return {node.name: node for node in found}

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """The classes, by their names."""
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)}

    @cached_property
    def calls(self) -> dict[str, list[ast.Call]]:
        """The calls, by the last name of what is called."""
        found: dict[str, list[ast.Call]] = defaultdict(list)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                found[called(node)].append(node)
        return dict(found)

    @cached_property
    def mentions(self) -> dict[str, list[ast.AST]]:
        """Where a name is read, also as ``module.name``."""
        found: dict[str, list[ast.AST]] = defaultdict(list)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name):
                found[node.id].append(node)
            elif isinstance(node, ast.Attribute):
                found[node.attr].append(node)
        return dict(found)

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield what the node is a part of, the nearest first."""
        while (parent := self.parents.get(node)) is not None:
            yield parent
            node = parent

    def function_of(self, node: ast.AST) -> Function | None:
        """Return the innermost function that the node is in; None for the module itself."""
        return next((found for found in self.above(node) if isinstance(found, Function)), None)

    def blocks_above(self, node: ast.AST) -> Iterator[tuple[Sequence[ast.stmt], int]]:
        """Yield the lists of statements around a node, up to its function, and its place there."""
        child = node
        for parent in self.above(node):
            for name in ("body", "orelse", "finalbody", "handlers", "cases"):
                block = getattr(parent, name, None)
                if isinstance(block, list) and child in block:
                    yield block, block.index(child)
            if isinstance(parent, (*Function.__args__, ast.Lambda)):
                return
            child = parent


def called(call: ast.Call) -> str:
    """Return the last name of what is called; empty where it has none."""
    if isinstance(call.func, ast.Name):
        return call.func.id
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


@cache
def load(root: Path) -> tuple[Module, ...]:
    """Return the modules of the project's programs, by their paths."""
    return tuple(
        Module(str(path.relative_to(root)), ast.parse(path.read_text(encoding="utf-8")))
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*.py"))
    )


def abouts(modules: Iterable[Module]) -> dict[str, str]:
    """Return what each package is for, by its folder: ``paddle_stacks/jobs/``."""
    return {
        module.path.removesuffix("__init__.py"): module.about
        for module in modules
        if module.path.endswith("/__init__.py")
    }

"""Patches of upstream's source, and their application to a file's text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from paddle_stacks.errors import MachineError

__all__ = ["CPU", "DCU", "EVERY_BACKEND", "Edit", "Patch", "apply"]

CPU = frozenset({"cpu", "dcu-sim"})
"""The backends that compute on a CPU."""
DCU = frozenset({"dcu", "dcu-sim"})
"""DCUs, and the backend that simulates them on a CPU."""
EVERY_BACKEND = CPU | DCU


@dataclass(frozen=True)
class Edit:
    """A replacement of text.

    Args:
        old: upstream's text.
        new: the replacement; the same text if it must only be present.
        count: the exact number of occurrences in upstream's file.
    """

    old: str
    new: str
    count: int = 1


@dataclass(frozen=True)
class Patch:
    """A fault of upstream's source, and its fix.

    Args:
        name: the patch's name.
        file: upstream's, from the root of its source.
        line: of the fault, at the pinned commit.
        symptom: the behavior without the patch.
        action: the change of the patch.
        test: the test that fails without it.
        forms: the edits for each known version of the file. A file must contain all texts of
            one form.
        backends: on which it is applied.
    """

    name: str
    file: str
    line: int
    symptom: str
    action: str
    test: str
    forms: tuple[tuple[Edit, ...], ...]
    backends: frozenset[str] = EVERY_BACKEND

    @property
    def module(self) -> str:
        """The module of the file."""
        return self.file.removeprefix("llm/").removesuffix(".py").replace("/", ".")


def apply(source: str, patches: Iterable[Patch], path: str) -> str:
    """Return a file's text with patches applied.

    Args:
        source: the file's text.
        patches: those of this file.
        path: of the file, for messages.

    Raises:
        MachineError: a patch does not match the file.
    """
    for patch in patches:
        source = _applied(source, patch, path)
    return source


def _applied(source: str, patch: Patch, path: str) -> str:
    missing: list[Edit] = []
    for form in patch.forms:
        wrong = [edit for edit in form if source.count(edit.old) != edit.count]
        if not wrong:
            for edit in form:
                source = source.replace(edit.old, edit.new)
            return source
        missing = missing or wrong
    edit = missing[0]
    first = next(line.strip() for line in edit.old.splitlines() if line.strip())
    raise MachineError(
        f'the patch "{patch.name}" does not fit: expected {edit.count} of "{first}", '
        f"got {source.count(edit.old)}",
        where=path,
        remedy="build the image from the pinned commit of PaddleNLP, or run upstream's program "
        "as it is: upstream --unpatched SCRIPT …",
    )

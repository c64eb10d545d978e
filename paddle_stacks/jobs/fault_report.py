"""A report of the faults in many lines, where equal faults are reported once with a count."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from paddle_stacks.errors import Problem

__all__ = ["SHOWN", "FaultReport"]

SHOWN = 20
"""Maximum number of different faults that are shown; the others are counted."""

_PLACES = 5  # further places of an equal fault that are listed


@dataclass
class _Group:
    """Equal faults of one file: the first one, and where the others are."""

    first: Problem
    places: list[str] = field(default_factory=list)
    count: int = 0

    def problem(self) -> Problem:
        where = f"{self.first.where}:{self.places[0]}"
        others = self.count - 1
        if others:
            listed = ", ".join(self.places[1:])
            dots = ", …" if others > len(self.places) - 1 else ""
            noun = "place" if others == 1 else "places"
            where += f" and {others} more {noun}: {listed}{dots}"
        return replace(self.first, where=where)


class FaultReport:
    """Faults by file and line, grouped; its memory does not grow with the number of lines."""

    def __init__(self) -> None:
        self.count = 0
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, problem: Problem, place: str) -> None:
        """Add a fault.

        Args:
            problem: the fault and its file; faults that differ only in numbers are equal.
            place: the line, or another place in the file.
        """
        self.count += 1
        key = (problem.where, re.sub(r"\d+", "N", problem.what))
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= SHOWN:
                return
            group = self._groups[key] = _Group(problem)
        group.count += 1
        if len(group.places) <= _PLACES:
            group.places.append(place)

    def problems(self, noun: str) -> list[Problem]:
        """Return a problem for each kind of fault, and one with the total if some are not shown.

        Args:
            noun: what is counted, in the plural: ``bad lines``.
        """
        problems = [group.problem() for group in self._groups.values()]
        hidden = self.count - sum(group.count for group in self._groups.values())
        if hidden:
            problems.append(
                Problem(f"and {hidden} more {noun}", "", "fix those above, then run it again")
            )
        return problems

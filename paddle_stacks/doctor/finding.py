"""What a check is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from paddle_stacks.errors import Problem, StackError

if TYPE_CHECKING:
    from paddle_stacks.doctor.machine import Machine

__all__ = [
    "SEVERITIES",
    "Check",
    "Finding",
    "Fix",
    "Severity",
    "error",
    "hint",
    "ok",
    "skipped",
    "warning",
]

Severity = Literal["ok", "skipped", "hint", "warning", "error"]

SEVERITIES: tuple[Severity, ...] = ("ok", "skipped", "hint", "warning", "error")
"""From good to bad. Only an error says that the machine is not fit."""


@dataclass(frozen=True)
class Fix:
    """Something safe that can be done about a finding.

    Args:
        says: what it does, as an order: ``start the Docker Engine``.
        apply: does it; raises a :class:`~paddle_stacks.errors.StackError` or an
            ``OSError`` where it cannot.
    """

    says: str
    apply: Callable[[], object]


@dataclass(frozen=True)
class Finding:
    """What a check saw.

    Args:
        severity: ``skipped`` is for what could not be looked at because of
            something that another check tells of.
        saw: the facts, one sentence without a full stop.
        remedy: what a person does about it; empty where nothing need be done.
        fix: what ``--fix`` does about it.
        check: the check's name; :meth:`Check.run` sets it.
        fixed: what has been done about it in this run.
    """

    severity: Severity
    saw: str
    remedy: str = ""
    fix: Fix | None = None
    check: str = ""
    fixed: str = ""

    @property
    def wrong(self) -> bool:
        """Whether there is anything to do: a hint, a warning or an error."""
        return self.severity in ("hint", "warning", "error")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-serializable values; ``fixed`` is None where nothing was done."""
        return {
            "check": self.check,
            "severity": self.severity,
            "saw": self.saw,
            "remedy": self.remedy,
            "fixed": self.fixed or None,
        }


@dataclass(frozen=True)
class Check:
    """One thing to look at.

    Args:
        name: a word or two, joined by hyphens.
        title: what it looks at.
        backends: the platforms that it is about.
        worst: the worst that it can find.
        look: looks at a machine and says what it saw.
    """

    name: str
    title: str
    backends: tuple[str, ...]
    worst: Severity
    look: Callable[[Machine], Finding]

    def run(self, machine: Machine) -> Finding:
        """Return the finding; whatever goes wrong while looking is one too."""
        try:
            found = self.look(machine)
        except StackError as failure:
            found = _of_problems(self.worst, failure.problems)
        except OSError as failure:
            where = f": {failure.filename}" if failure.filename else ""
            said = f"could not be looked at: {failure.strerror or failure}{where}"
            found = Finding(self.worst, said, "run it as a user who may look there")
        return replace(found, check=self.name)


def ok(saw: str) -> Finding:
    """Return that all is well."""
    return Finding("ok", saw)


def skipped(reason: str) -> Finding:
    """Return that it could not be looked at, for a reason that another check tells of."""
    return Finding("skipped", reason)


def hint(saw: str, remedy: str, fix: Fix | None = None) -> Finding:
    """Return that something could be better."""
    return Finding("hint", saw, remedy, fix)


def warning(saw: str, remedy: str, fix: Fix | None = None) -> Finding:
    """Return that something will fail for some jobs."""
    return Finding("warning", saw, remedy, fix)


def error(saw: str, remedy: str, fix: Fix | None = None) -> Finding:
    """Return that jobs cannot run."""
    return Finding("error", saw, remedy, fix)


def _of_problems(severity: Severity, problems: tuple[Problem, ...]) -> Finding:
    said = "; ".join(f"{p.what} ({p.where})" if p.where else p.what for p in problems)
    remedies = dict.fromkeys(p.remedy for p in problems if p.remedy)
    return Finding(severity, said, "; ".join(remedies))

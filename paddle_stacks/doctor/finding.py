"""Checks and their findings."""

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
"""From good to bad. Only an error makes the machine unfit."""


@dataclass(frozen=True)
class Fix:
    """A safe, automatic fix for a finding.

    Args:
        action: what the fix does, in the imperative: ``start the Docker Engine``.
        apply: does it; raises a :class:`~paddle_stacks.errors.StackError` or an
            ``OSError`` on failure.
    """

    action: str
    apply: Callable[[], object]


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Args:
        severity: ``skipped`` if it could not be checked because of something that
            another check reports.
        saw: the facts, one sentence without a full stop.
        remedy: what the user should do; empty if nothing.
        fix: what ``--fix`` does about it.
        check: the check's name; set by :meth:`Check.run`.
        fixed: the fix that was applied in this run.
    """

    severity: Severity
    saw: str
    remedy: str = ""
    fix: Fix | None = None
    check: str = ""
    fixed: str = ""

    @property
    def wrong(self) -> bool:
        """Whether the finding needs action: a hint, a warning or an error."""
        return self.severity in ("hint", "warning", "error")

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON-serializable values; ``fixed`` is None without a fix."""
        return {
            "check": self.check,
            "severity": self.severity,
            "saw": self.saw,
            "remedy": self.remedy,
            "fixed": self.fixed or None,
        }


@dataclass(frozen=True)
class Check:
    """A check of one aspect of a machine.

    Args:
        name: one or two words, joined by hyphens.
        title: what it checks.
        backends: the backends that it applies to.
        worst: the worst severity that it can report.
        look: inspects a machine and returns the finding.
    """

    name: str
    title: str
    backends: tuple[str, ...]
    worst: Severity
    look: Callable[[Machine], Finding]

    def run(self, machine: Machine) -> Finding:
        """Return the finding; a failure of the check itself is a finding too."""
        try:
            finding = self.look(machine)
        except StackError as failure:
            finding = _of_problems(self.worst, failure.problems)
        except OSError as failure:
            where = f": {failure.filename}" if failure.filename else ""
            text = f"could not be checked: {failure.strerror or failure}{where}"
            finding = Finding(self.worst, text, "run it as a user with access to the file")
        return replace(finding, check=self.name)


def ok(saw: str) -> Finding:
    """Return a finding for a successful check."""
    return Finding("ok", saw)


def skipped(reason: str) -> Finding:
    """Return a finding for what could not be checked, for a reason that another check reports."""
    return Finding("skipped", reason)


def hint(saw: str, remedy: str, fix: Fix | None = None) -> Finding:
    """Return a finding for something that could be better."""
    return Finding("hint", saw, remedy, fix)


def warning(saw: str, remedy: str, fix: Fix | None = None) -> Finding:
    """Return a finding for something that will make some jobs fail."""
    return Finding("warning", saw, remedy, fix)


def error(saw: str, remedy: str, fix: Fix | None = None) -> Finding:
    """Return a finding for something that prevents jobs from running."""
    return Finding("error", saw, remedy, fix)


def _of_problems(severity: Severity, problems: tuple[Problem, ...]) -> Finding:
    text = "; ".join(f"{p.what} ({p.where})" if p.where else p.what for p in problems)
    remedies = dict.fromkeys(p.remedy for p in problems if p.remedy)
    return Finding(severity, text, "; ".join(remedies))

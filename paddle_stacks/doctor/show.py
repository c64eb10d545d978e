"""Print findings and causes as text or JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from paddle_stacks.doctor.finding import SEVERITIES, Finding
from paddle_stacks.errors import MachineError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from paddle_stacks.doctor.logs import Cause

__all__ = ["as_json", "causes_as_json", "show", "show_causes", "status_of", "verdict"]

# Used on UTF-8 terminals; elsewhere the severity is printed as a word.
_SIGNS = {"ok": "✓", "skipped": "·", "hint": "i", "warning": "!", "error": "✗"}
_COLOURS = {
    "ok": "green",
    "skipped": "bright_black",
    "hint": "cyan",
    "warning": "yellow",
    "error": "bold red",
}


def status_of(findings: Iterable[Finding]) -> int:
    """Return the exit status: 3 if there is an error, else 0."""
    return MachineError.status if any(f.severity == "error" for f in findings) else 0


def as_json(backend: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as JSON-serializable values."""
    return {
        "backend": backend,
        "status": status_of(findings),
        "findings": [finding.to_json() for finding in findings],
    }


def causes_as_json(log: str, causes: Sequence[Cause], status: int) -> dict[str, Any]:
    """Return the causes in a log as JSON-serializable values."""
    return {"log": log, "status": status, "causes": [cause.to_json() for cause in causes]}


def verdict(findings: Sequence[Finding]) -> str:
    """Return a one-line summary of all findings."""
    counts = []
    for severity in reversed(SEVERITIES[1:]):
        names = [finding.check for finding in findings if finding.severity == severity]
        if names and severity == "skipped":
            counts.append(f"{len(names)} skipped")
        elif names:
            plural = "s" if len(names) > 1 else ""
            counts.append(f"{len(names)} {severity}{plural} ({', '.join(names)})")
    fit = "not fit" if status_of(findings) else "fit"
    total = f"{len(findings)} check{'s' if len(findings) != 1 else ''}"
    return f"{fit}: {', '.join([total, *counts])}"


def show(findings: Iterable[Finding], names: Sequence[str]) -> list[Finding]:
    """Print findings one by one, as they arrive, and the verdict.

    Args:
        findings: the findings, lazily evaluated.
        names: names of all checks, for the column's width.

    Returns:
        All findings.
    """
    console = _console()
    width = max(map(len, names), default=0)
    printed: list[Finding] = []
    for finding in findings:
        _show_finding(console, finding, width)
        printed.append(finding)
    colour = "bold red" if status_of(printed) else "bold green"
    console.print()
    _print(console, verdict(printed), colour)
    return printed


def show_causes(log: str, causes: Sequence[Cause]) -> None:
    """Print the causes in a log with their lines, remedies and sources."""
    console = _console()
    if not causes:
        _print(console, f"{log}: no known failure")
        return
    for cause in causes:
        _print(console, f"{log}:{cause.line}: {cause.failure.cause}", "bold")
        _print(console, f"  line: {cause.text}")
        _print(console, f"  fix: {cause.failure.remedy}")
        _print(console, f"  source: {cause.failure.source}", "bright_black")
        if cause.follows:
            _print(console, f"  follows from: {', '.join(cause.follows)}", "bright_black")
    console.print()
    plural = "s" if len(causes) > 1 else ""
    names = ", ".join(cause.failure.name for cause in causes)
    _print(console, f"{len(causes)} known failure{plural}: {names}")


def _show_finding(console: Console, finding: Finding, width: int) -> None:
    from rich.table import Table
    from rich.text import Text

    sign, first = _sign(console, finding), 1 if _draws(console) else len("warning")
    remedies = _remedies(finding)
    if not console.is_terminal:
        # Neither truncated nor wrapped, so that grep finds whole lines.
        _print(console, f"{sign:<{first}}  {finding.check:<{width}}  {finding.saw}")
        for remedy in remedies:
            _print(console, f"{'':<{first + width + 4}}{remedy}")
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=first)
    table.add_column(width=width)
    table.add_column(overflow="fold")
    colour = _COLOURS[finding.severity]
    table.add_row(Text(sign, colour), Text(finding.check), Text(finding.saw))
    for remedy in remedies:
        table.add_row("", "", Text(remedy, "bright_black" if not finding.wrong else ""))
    console.print(table)


def _remedies(finding: Finding) -> list[str]:
    lines = []
    if finding.fixed:
        lines.append(f"done: {finding.fixed}")
    if finding.remedy:
        lines.append(f"fix: {finding.remedy}")
    if finding.fix and not finding.fixed:
        lines.append(f"--fix would {finding.fix.action}")
    return lines


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, no_color="NO_COLOR" in os.environ or None)


def _sign(console: Console, finding: Finding) -> str:
    return _SIGNS[finding.severity] if _draws(console) else finding.severity


def _draws(console: Console) -> bool:
    """Return whether the output is a UTF-8 terminal, which can show the signs."""
    encoding = (sys.stdout.encoding or "").lower()
    return console.is_terminal and encoding.startswith("utf")


def _print(console: Console, text: str, style: str = "") -> None:
    # A log's lines and a tool's output are untrusted: no control characters, no markup.
    console.print(printable(text), style=style, markup=False, soft_wrap=not console.is_terminal)

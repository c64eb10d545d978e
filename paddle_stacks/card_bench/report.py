"""The report of a benchmark: JSON, and Markdown to attach to an issue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paddle_stacks import verify
from paddle_stacks.card_bench.parts import Part
from paddle_stacks.errors import JobError
from paddle_stacks.images import Image
from paddle_stacks.settings import Settings

__all__ = ["as_markdown", "document", "status_of", "write"]

_FOLDER = Path(".cache", "bench")


def document(parts: Sequence[Part], built: Sequence[Image], settings: Settings) -> dict[str, Any]:
    """Return the report as JSON-serializable values: images, machine, parts.

    Args:
        parts: the results.
        built: the backend's images.
        settings: the backend, and the root of the host.
    """
    outcomes = [outcome for part in parts for outcome in part.outcomes]
    return verify.report(outcomes, built, settings) | {"parts": [asdict(part) for part in parts]}


def status_of(parts: Sequence[Part]) -> int:
    """Return the exit status: 5 if a part failed, else 0."""
    return JobError.status if any(part.state == "failed" for part in parts) else 0


def as_markdown(report: dict[str, Any]) -> str:
    """Return the report with the measurements first, then images, machine and tests."""
    lines = [f"# Benchmark of {report['backend']}, {report['when']}", ""]
    for part in report["parts"]:
        title = f"{part['name']}: {part['state']}, {part['seconds']:.0f} s"
        lines += [f"## {title}", "", *([part["message"], ""] if part["message"] else [])]
        if part["rows"]:
            rows = [part["headings"], ["---"] * len(part["headings"]), *part["rows"]]
            lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
    # Images, machine and tests as in a verification, without its title and verdict.
    details = verify.as_markdown(report)
    return "\n".join([*lines, "## Images", "", details[details.index("| image |") :]])


def write(root: Path, report: dict[str, Any]) -> Path:
    """Write the report beside its JSON, and return the Markdown file."""
    return verify.write_report(root / _FOLDER, report, as_markdown(report))

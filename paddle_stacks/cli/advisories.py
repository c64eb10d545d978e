"""Tasks about known vulnerabilities of the pinned packages."""

from __future__ import annotations

import datetime
import json as json_module
import sys
from pathlib import Path
from typing import Any

from invoke.collection import Collection

from paddle_stacks.cli import ROOT, task

__all__ = ["collection"]


@task(
    help={
        "database": "Advisories in the OSV format. Default: configs/advisories.json.",
        "policy": "The exceptions. Default: configs/vulnerabilities.toml.",
        "json": "Print one JSON document.",
    }
)
def _check(
    context: Any, database: str | None = None, policy: str | None = None, json: bool = False
) -> None:
    """Search the pinned packages for known vulnerabilities.

    The exit status is 5 if there are any.
    """
    from paddle_stacks.provenance import advisories, vulnerabilities

    exceptions = Path(policy) if policy else ROOT / vulnerabilities.POLICY
    accepted = vulnerabilities.load_policy(exceptions)
    path = Path(database) if database else ROOT / advisories.SNAPSHOT
    reports = advisories.check(ROOT, path, accepted, datetime.date.today())
    if json:
        values = [report.to_json() for report in reports]
        print(json_module.dumps(values, indent=2, ensure_ascii=False))
    else:
        print("\n".join(advisories.lines(reports)))
        if not database:
            snapshot = advisories.read(path)
            print(f"the advisories are complete until {snapshot.complete_until}: {snapshot.source}")
            if names := advisories.uncovered(ROOT, snapshot):
                print(f"not in the snapshot: {', '.join(names)}; ./inv advisories.update")
    vulnerabilities.require_no_faults(reports, exceptions)


@task(help={"database": "Advisories on this machine: an OSV archive, or a folder."})
def _update(context: Any, database: str | None = None) -> None:
    """Update configs/advisories.json from OSV.dev."""
    from paddle_stacks import settings
    from paddle_stacks.provenance import advisories

    current = settings.load(ROOT, {})
    snapshot = advisories.update(ROOT, current, Path(database) if database else None)
    count = len(snapshot.advisories)
    print(f"{count} advisories, complete until {snapshot.complete_until}", file=sys.stderr)
    print(advisories.SNAPSHOT)


def collection() -> Collection:
    """Return the tasks ``advisories`` and ``advisories.update``."""
    tasks = Collection("advisories")
    tasks.add_task(_check, name="check", default=True)
    tasks.add_task(_update, name="update")
    return tasks

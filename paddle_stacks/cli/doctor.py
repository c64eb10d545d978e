"""The task that looks for what is wrong: with this machine, or in a job's log."""

from __future__ import annotations

import json as jsons
from typing import Any

from paddle_stacks.cli import ROOT, finish, task
from paddle_stacks.errors import RequestError

__all__ = ["doctor"]


@task(
    forms={"nodes": "LIST"},
    help={
        "backend": "The backend to check for. Default: the setting, else cpu.",
        "json": "Print one JSON document.",
        "fix": "Do what is safe about what is found, and look again.",
        "log": "Look into a failed job's log instead: a file, a run's folder, or -.",
        "nodes": "The hosts of a job on several nodes, separated by commas.",
    },
)
def doctor(
    context: Any,
    backend: str | None = None,
    json: bool = False,
    fix: bool = False,
    log: str | None = None,
    nodes: str | None = None,
) -> None:
    """Check this machine and say how to fix what is wrong.

    Only errors make it unfit (3); hints and warnings do not. With --log the status is 3
    if a cause is named, 0 if the log tells of none that is known.
    """
    if log is not None:
        conflicts = [name for name, value in (("--fix", fix), ("--nodes", nodes)) if value]
        if conflicts:
            raise RequestError(
                f"{conflicts[0]} is about this machine, --log about a log",
                remedy="ask one after the other",
            )
        _read_log(log, json)
        return
    from paddle_stacks import settings
    from paddle_stacks.doctor import Machine, checks_for, examine, show
    from paddle_stacks.plan import backend as backends

    loaded = settings.load(ROOT, {"backend": backend})
    platform = backends.load(loaded.backend, loaded.root)
    names = tuple(name.strip() for name in (nodes or "").split(",") if name.strip())
    checks = checks_for(platform.name)
    findings = examine(Machine(loaded, platform, names), checks, fix=fix)
    if json:
        seen = list(findings)
        _print_json(show.as_json(platform.name, seen))
    else:
        seen = show.show(findings, [check.name for check in checks])
    finish(show.status_of(seen))


def _read_log(log: str, as_json: bool) -> None:
    from paddle_stacks.doctor import logs, show

    causes = logs.read(log)
    status = logs.status_of(causes)
    name = "standard input" if log == "-" else log
    if as_json:
        _print_json(show.causes_as_json(name, causes, status))
    else:
        show.show_causes(name, causes)
    finish(status)


def _print_json(value: dict[str, Any]) -> None:
    print(jsons.dumps(value, indent=2, ensure_ascii=False))

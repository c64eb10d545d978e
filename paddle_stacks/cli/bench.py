"""The task that measures a backend's cards."""

from __future__ import annotations

import sys
from typing import Any

from paddle_stacks.cli import ROOT, finish, task

__all__ = ["bench"]


@task(
    positional=["backend"],
    iterable=["part"],
    help={
        "backend": "The backend, such as dcu (default: the setting, else cpu).",
        "part": "operators, collectives, training or inference; repeatable (default: all).",
        "devices": "Devices to use, such as 0,1 or 0-3 (default: all).",
        "steps": "Training steps (default: 20).",
    },
    forms={"steps": "INT"},
)
def bench(
    context: Any,
    backend: str | None = None,
    part: list[str] | None = None,
    devices: str | None = None,
    steps: str = "20",
) -> None:
    """Measure the cards and write a report to attach to an issue.

    Operators against their references, communication between cards, training steps, and
    the benchmark lines of PaddleNLP's instructions: ./inv bench dcu
    """
    from paddle_stacks import engine, images, settings
    from paddle_stacks.card_bench import parts, report
    from paddle_stacks.dcu.cards import parse_devices
    from paddle_stacks.errors import RequestError

    if not (steps.isascii() and steps.isdecimal() and 1 <= int(steps) <= 10_000):
        message = f'expected a number of steps from 1 to 10000, got "{steps}"'
        raise RequestError(message, where="--steps", remedy="--steps 20")
    cards = parse_devices(devices) if devices else ()
    loaded = settings.load(ROOT, {"backend": backend})
    # First, because without images every part would fail in the same way.
    built = images.inspect_all(engine.connect(), loaded.backend)
    results = parts.run(loaded, parts.Options(cards, int(steps), tuple(part or ())))
    path = report.write(ROOT, report.document(results, built, loaded))
    for each in results:
        print(f"{each.name}: {each.state} {each.message}".rstrip(), file=sys.stderr)
    print(f"attach this to an issue: {path.relative_to(ROOT)}", file=sys.stderr)
    finish(report.status_of(results))

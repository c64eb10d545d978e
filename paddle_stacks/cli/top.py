"""The task that shows the cards."""

from __future__ import annotations

import sys
from typing import Any

from paddle_stacks.cli import ROOT, task

__all__ = ["top"]


@task(
    help={
        "once": "Print a plain table and stop; the same where there is no terminal.",
        "interval": "Seconds between two readings, from 0.2.",
        "backend": "The backend; one without devices is an error.",
        "json": "Print one JSON document and stop.",
    }
)
def top(
    context: Any, once: bool = False, interval: str = "2", backend: str = "", json: bool = False
) -> None:
    """Show the DCU cards live; q quits.

    Memory, load, temperature, power and processes.
    """
    from json import dumps

    from paddle_stacks import settings
    from paddle_stacks.dcu import top as cards
    from paddle_stacks.errors import RequestError
    from paddle_stacks.plan import backend as platforms

    seconds = cards.parse_interval(interval)
    if backend and not platforms.load(backend, ROOT).devices:
        message = f"the {backend} backend has no cards"
        raise RequestError(message, where="--backend", remedy="leave it out")
    root = settings.load(ROOT, {"backend": backend or None}).host_root
    if json:
        print(dumps(cards.take(root).to_json(), indent=2))
    elif once:
        cards.plain(cards.take(root), sys.stdout)
    else:
        cards.run(root, seconds)

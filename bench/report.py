"""What both benchmarks print: the machine, tables in Markdown, one JSON document."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["load", "machine", "say", "show", "spread", "table"]


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on, when, and by which command line."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "load": load(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
    }


def load() -> float:
    """Return how many processes wanted a core, on average over the last minute."""
    return round(os.getloadavg()[0], 1)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median of some values, and the values."""
    return {"median": round(statistics.median(values), 3), "all": [round(v, 3) for v in values]}


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; every column but the first is aligned to the right."""
    lines = ["| " + " | ".join(headings) + " |", "|---" + "|--:" * (len(headings) - 1) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def say(text: str) -> None:
    """Tell how far the benchmark is, on standard error."""
    print(text, file=sys.stderr, flush=True)


def show(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print the document, or the tables with the machine below them."""
    if as_json:
        print(json.dumps(document, indent=2))
        return
    on = document["machine"]
    print(
        f"{text}\n\n{on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB, "
        f"load {on['load']} at the start; {on['date']}; `{on['command']}`"
    )

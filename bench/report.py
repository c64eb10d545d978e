"""Output of benchmarks: the machine, tables, pictures, and a JSON document."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from paddle_stacks.errors import JobError
from paddle_stacks.jobs.files import replacing_file

__all__ = ["load", "machine", "publish", "say", "show", "spread", "table", "write"]

_BENCH = Path(__file__).resolve().parent
_DOCS = _BENCH.parent / "docs"
_END = "<!-- end -->"


def machine() -> dict[str, Any]:
    """Return the machine, the date and the command line of a measurement."""
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
    """Return the average number of runnable processes over the last minute."""
    return round(os.getloadavg()[0], 1)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median of values, and the values."""
    return {"median": round(statistics.median(values), 3), "all": [round(v, 3) for v in values]}


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; every column but the first is aligned to the right."""
    lines = ["| " + " | ".join(headings) + " |", "|---" + "|--:" * (len(headings) - 1) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def say(text: str) -> None:
    """Print progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def show(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print the document, or the tables with the machine below them."""
    if as_json:
        print(json.dumps(document, indent=2))
        return
    print(f"{text}\n\n{_measured_on(document)}")


def publish(name: str, document: dict[str, Any], text: str) -> None:
    """Write a benchmark's tables to ``docs/performance.md``, and its picture.

    Args:
        name: the benchmark's, without its ending.
        document: what it measured.
        text: its tables.

    Raises:
        JobError: the page has no marks for them, or the picture cannot be drawn.
    """
    write("performance.md", f"{name}.py", f"{text}\n\n{_measured_on(document)}")
    _draw(name, document)


def _measured_on(document: dict[str, Any]) -> str:
    """Return the line below a table with the machine, date and command of the measurement."""
    on = document["machine"]
    return (
        f"{on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB, "
        f"load {on['load']} at the start; {on['date']}; `{on['command']}`"
    )


def write(page: str, name: str, text: str) -> None:
    """Write a benchmark's tables to a page of the documentation, between the benchmark's marks.

    Args:
        page: in docs/.
        name: the benchmark's file, the name in its first mark.
        text: the tables.

    Raises:
        JobError: the page has no such marks, or several.
    """
    path = _DOCS / page
    begin = f"<!-- bench/{name} -->"
    content, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(_END)}",
        lambda _: f"{begin}\n\n{text}\n\n{_END}",
        path.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if count != 1:
        raise JobError(
            f"expected one place for the results, got {count}: {begin}",
            where=str(path),
            remedy=f"the page needs one line {begin} and one line {_END} after it",
        )
    with replacing_file(path) as stream:
        stream.write(content)


def _draw(name: str, document: dict[str, Any]) -> None:
    """Draw a benchmark's document as ``docs/pictures/bench-<name>.svg`` with ``draw.py``.

    It runs in the training image, which has matplotlib.

    Raises:
        JobError: it cannot be drawn.
    """
    line = ["docker", "run", "--rm", "--interactive", "--network=none", "--read-only"]
    line += ["--tmpfs=/tmp", f"--mount=type=bind,readonly,source={_BENCH},target=/bench"]
    line += ["paddle-stacks/train:cpu", "python", "/bench/draw.py", name]
    done = subprocess.run(line, input=json.dumps(document).encode(), capture_output=True)
    if done.returncode:
        raise JobError(
            done.stderr.decode(errors="replace").strip(),
            where="bench/draw.py",
            remedy="its environment has matplotlib; run it by itself to see more",
        )
    with replacing_file(_DOCS / "pictures" / f"bench-{name}.svg", "wb") as stream:
        stream.write(done.stdout)

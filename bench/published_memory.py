"""The memory plan against peaks that others published of trainings on DCUs.

``.venv/bin/python bench/published_memory.py [--json] [--write]``

The numbers are in ``published_memory.toml``. Nothing is run: this compares what the plan
predicts with their logs. ``--write`` puts the table into ``docs/memory.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import report

from paddle_stacks import toml
from paddle_stacks.memory import Layout, Workload, plan
from paddle_stacks.memory.estimate import RESERVE
from paddle_stacks.memory.shapes import find

TABLE = Path(__file__).parent / "published_memory.toml"
GOAL = 0.10  # of the published peak
MICRO_BATCHES = 4
_GIB = 2**30
_STATES = ("parameters", "rotary tables", "gradients", "AdamW's two moments")


def runs() -> list[dict[str, Any]]:
    """Return the published runs, each with ``predicted_allocated`` and ``predicted``, in GiB."""
    entries: list[dict[str, Any]] = toml.read(TABLE)["run"]
    for entry in entries:
        allocated = predicted_bytes(entry) / _GIB
        entry["predicted_allocated"] = round(allocated, 3)
        entry["predicted"] = round(allocated * (1 + RESERVE), 3)
        entry["off"] = round(entry["predicted"] / entry["reserved"] - 1, 4)
    return entries


def predicted_bytes(entry: dict[str, Any]) -> int:
    """Return the tensors in bytes that the plan predicts at the moment of a run's peak."""
    model = find(entry["model"])
    work = Workload(
        method=entry["method"],
        dtype="bfloat16",
        level="O1",
        sequence=entry["sequence"],
        micro_batches=MICRO_BATCHES,
        recompute="full",
    )
    layout = Layout(tensor=entry["tensor"], pipeline=entry["pipeline"])
    first = plan(model, work, layout)[0]
    sizes = {line.name: line.size for line in first.lines}
    if entry["peak"] == "first step":
        return sum(sizes[name] for name in _STATES)
    if entry["peak"] == "loading":
        # float32 weights, bfloat16 copies of them, and the whole embedding in bfloat16
        loaded = sizes["parameters"] * 6 // 4 + 2 * model.embedding
        return max(first.allocated, loaded)
    return first.allocated


def table(entries: Sequence[dict[str, Any]]) -> str:
    """Return the comparison as a table in Markdown."""
    headings = (
        "training",
        "peak in",
        "tensors, GiB: predicted",
        "published",
        "reserved, GiB: predicted",
        "published",
        "off",
    )
    rows = [
        (
            f"{e['model']}, {e['method']}, {e['sequence']} tokens, tp={e['tensor']},"
            f"pp={e['pipeline']}",
            e["peak"],
            f"{e['predicted_allocated']:.1f}",
            f"{e['allocated']:.1f}",
            f"{e['predicted']:.1f}",
            f"{e['reserved']:.1f}",
            f"{e['off']:+.1%}",
        )
        for e in entries
    ]
    return report.table(headings, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison and return the exit status; 5 where a prediction is off the goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--write", action="store_true", help="put the table into docs/memory.md")
    arguments = parser.parse_args(argv)
    entries = runs()
    if arguments.write:
        report.write("memory.md", "published_memory.py", table(entries))
    document = {"machine": report.machine(), "goal": GOAL, "reserve": RESERVE, "runs": entries}
    report.show(document, table(entries), as_json=arguments.json)
    return 5 if any(abs(entry["off"]) > GOAL for entry in entries) else 0


if __name__ == "__main__":
    sys.exit(main())

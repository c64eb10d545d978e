"""Comparison of a device's operators with the reference on a CPU, case by case.

Both inputs come from ``tests/images/ops-cpu/reference.py``, which defines the cases and the
tolerances.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["KNOWN", "Row", "as_table", "compare", "faults"]

KNOWN: Mapping[str, str] = {
    "masked_multihead_attention": "a ROCm build registers it without a body (Paddle 3.0.0b2)",
    "variable_length_memory_efficient_attention": "a ROCm build lacks it (Paddle#59442)",
}
"""Operators that are expected to be missing or wrong on a DCU; no recipe uses them there."""


@dataclass(frozen=True)
class Row:
    """The comparison of one case of a device with the reference.

    Args:
        case: the case's name, with its type.
        operator: the operator that it calls.
        dtype: the type of the model.
        state: ``right``, ``wrong``, ``missing`` (no such kernel) or ``failed`` (it raised).
        error: the greatest absolute error of its outputs; None if nothing was computed.
        allowed: the tolerance of the output with that error.
        message: the wrong output or the exception.
    """

    case: str
    operator: str
    dtype: str
    state: str
    error: float | None = None
    allowed: float | None = None
    message: str = ""


def compare(reference: Mapping[str, Any], device: Mapping[str, Any]) -> list[Row]:
    """Return a row for each case of the reference.

    Raises:
        ValueError: the reference itself computed nothing in a case.
    """
    rows = []
    for case, expected in reference.items():
        if expected["state"] != "computed":
            raise ValueError(f"{case}: the reference {expected['state']}: {expected['message']}")
        entry = device.get(case, {"state": "missing", "message": "no such case"})
        names = (case, expected["operator"], expected["dtype"])
        if entry["state"] != "computed":
            rows.append(Row(*names, entry["state"], message=entry["message"]))
            continue
        rows.append(_compare_outputs(names, expected["outputs"], entry["outputs"]))
    return rows


def _compare_outputs(
    names: tuple[str, str, str], expected: Mapping[str, Any], outputs: Mapping[str, Any]
) -> Row:
    worst = Row(*names, "right", 0.0, 0.0)
    worst_excess = -math.inf
    for name, output in expected.items():
        got = outputs.get(name)
        if got is None or got["shape"] != output["shape"]:
            shape = got and got["shape"]
            return Row(*names, "wrong", message=f"{name}: shape {shape}, not {output['shape']}")
        allowed = float(output["allowed"])
        error = _greatest_error(_values(output), _values(got))
        excess = error - allowed
        state = "right" if excess <= 0 else "wrong"
        message = "" if state == "right" else f"{name}: off by {error:.3g}, allowed {allowed:.3g}"
        if excess > worst_excess:
            worst, worst_excess = Row(*names, state, error, allowed, message), excess
    return worst


def _values(output: Mapping[str, Any]) -> Sequence[float]:
    data = zlib.decompress(base64.b64decode(output["data"]))
    return struct.unpack(f"<{len(data) // 8}d", data)


def _greatest_error(expected: Sequence[float], got: Sequence[float]) -> float:
    """Return the greatest difference; infinite if only one of two values is a number."""
    greatest = 0.0
    for a, b in zip(expected, got, strict=True):
        if a == b or (math.isnan(a) and math.isnan(b)):
            continue
        error = abs(a - b)
        greatest = max(greatest, math.inf if math.isnan(error) else error)
    return greatest


def faults(rows: Sequence[Row]) -> list[Row]:
    """Return the wrong rows, except for known ones."""
    return [row for row in rows if row.state != "right" and row.operator not in KNOWN]


def as_table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, the faults first."""
    order = {"wrong": 0, "failed": 1, "missing": 2, "right": 3}
    lines = [
        "| case | operator | type | state | greatest error | allowed | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: order[row.state]):
        error = "" if row.error is None else f"{row.error:.3g}"
        allowed = "" if row.allowed is None else f"{row.allowed:.3g}"
        reason = KNOWN.get(row.operator, "") if row.state != "right" else ""
        note = "; ".join(filter(None, (row.message, reason and f"known: {reason}")))
        lines.append(
            f"| {row.case} | {row.operator} | {row.dtype} | {row.state} | {error} | {allowed}"
            f" | {note.replace('|', '/')} |"
        )
    return "\n".join(lines)

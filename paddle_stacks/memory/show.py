"""Render a memory estimate as text and as JSON."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from paddle_stacks.memory.capacity import CARDS, capacities
from paddle_stacks.memory.estimate import Plan
from paddle_stacks.memory.request import Request
from paddle_stacks.memory.schedule import as_text, bubble, fraction
from paddle_stacks.memory.search import Candidate

__all__ = ["as_json", "as_lines", "candidates_as_json", "candidates_as_lines", "drawn_batches"]

_GIB = 2**30
_INDENT = " " * 40
_MAX_DRAWN = 8  # micro-batches; more would be wider than a terminal


def as_lines(request: Request, plans: Sequence[Plan], *, fits: bool) -> list[str]:
    """Return the verdict, the table of the rank that needs most, the stages' sums, the schedule.

    Args:
        request: the request.
        plans: the plan of every stage.
        fits: whether it fits into the card's memory.
    """
    layout, work = request.layout, request.work
    worst = max(plans, key=lambda each: each.size)
    share = worst.size / request.memory
    width = shutil.get_terminal_size((100, 24)).columns
    lines = [
        f"{'fits' if fits else 'does not fit'}: {worst.size / _GIB:.1f} of "
        f"{request.memory / _GIB:.1f} GiB ({share:.0%}), {worst.moment}",
        *textwrap.wrap(
            f"{request.model.name}: {request.model.parameters:,} parameters, {work.method}, "
            f"{work.dtype}{f' {work.level}' if work.half else ''}, batch {work.batch} x "
            f"{work.sequence} tokens, {layout.world} x {request.card}, {layout}",
            width,
        ),
        "",
        f"{'rank of stage ' + str(worst.stage):<30}{'GiB':>8}  formula",
    ]
    for line in (*worst.lines, worst.reserve):
        name = f"{line.name:<30}{line.size / _GIB:>8.2f}  "
        lines += textwrap.wrap(line.formula, width, initial_indent=name, subsequent_indent=_INDENT)
        lines += textwrap.wrap(
            line.source, width, initial_indent=_INDENT, subsequent_indent=_INDENT
        )
    lines.append(f"{'sum':<30}{worst.size / _GIB:>8.2f}")
    if work.method == "inference":
        lines += ["", *_capacity(request)]
    if len(plans) > 1:
        sums = ", ".join(f"{each.size / _GIB:.1f}" for each in plans)
        lines += ["", f"GiB by stage: {sums}"]
        if work.method != "inference":
            lines += ["", *_schedule(request)]
    return lines


def _capacity(request: Request) -> list[str]:
    """Return the table of requests that fit, by their length and the number of cards."""
    rows = capacities(request.model, request.work, request.memory)
    columns = [cards for cards in CARDS if cards in rows[0].requests]
    heading = "".join(f"{f'tp={cards}':>9}" for cards in columns)
    lines = [
        f"requests that fit at the same time on {request.card} cards:",
        f"{'tokens per request':<30}{heading}",
    ]
    for row in rows:
        lines.append(
            f"{row.tokens:<30}" + "".join(f"{row.requests[cards]:>9}" for cards in columns)
        )
    return lines


def drawn_batches(request: Request) -> int:
    """Return the number of micro-batches to draw: a multiple of the pipeline's stages.

    Args:
        request: the request.
    """
    p, m = request.layout.pipeline, request.work.micro_batches
    return min(m, max(p, _MAX_DRAWN // p * p))


def _schedule(request: Request) -> list[str]:
    p, v, m = request.layout.pipeline, request.layout.virtual, request.work.micro_batches
    lines = [
        f"bubble: (p - 1) / (v m + p - 1) = {fraction(p, m, v):.1%} of a step, {m} micro-batches "
        "(Huang et al. 2019, arXiv:1811.06965; Narayanan et al. 2021, arXiv:2104.04473)"
    ]
    drawn = drawn_batches(request)
    if drawn < m:
        lines.append(f"schedule of {drawn} micro-batches:")
    return [*lines, as_text(p, drawn, v)]


def as_json(request: Request, plans: Sequence[Plan], *, fits: bool) -> dict[str, Any]:
    """Return the estimate as JSON-serializable values.

    Args:
        request: the request.
        plans: the plan of every stage.
        fits: whether it fits into the card's memory.
    """
    p, v, m = request.layout.pipeline, request.layout.virtual, request.work.micro_batches
    inference = request.work.method == "inference"
    rows = capacities(request.model, request.work, request.memory) if inference else ()
    return {
        "model": asdict(request.model) | {"parameters": request.model.parameters},
        "work": asdict(request.work),
        "layout": asdict(request.layout) | {"world": request.layout.world},
        "card": request.card,
        "card_bytes": request.memory,
        "peak_bytes": max(each.size for each in plans),
        "fits": fits,
        "capacity": [asdict(row) for row in rows],
        "bubble_fraction": fraction(p, m, v),
        "bubble_to_work": bubble(p, m, v),
        "stages": [
            {
                "stage": each.stage,
                "bytes": each.size,
                "allocated_bytes": each.allocated,
                "reserve_bytes": each.reserve.size,
                "moment": each.moment,
                "lines": [asdict(x) for x in each.lines],
            }
            for each in plans
        ],
    }


def candidates_as_lines(candidates: Sequence[Candidate], request: Request) -> list[str]:
    """Return the layouts as a table, best first.

    Args:
        candidates: the layouts.
        request: the request of the search.
    """
    cards, fit = request.layout.world, sum(each.fits for each in candidates)
    lines = [
        f"{request.model.name} on {cards} x {request.card}: {len(candidates)} layouts, {fit} fit",
        "",
        f"{'':>3} {'layout':<34}{'GiB':>8}{'bubble':>9}",
    ]
    for number, each in enumerate(candidates, start=1):
        idle = each.bubble / (1 + each.bubble)
        state = "" if each.fits else "  does not fit"
        lines.append(f"{number:>3} {each.layout!s:<34}{each.size / _GIB:>8.2f}{idle:>9.1%}{state}")
    return lines


def candidates_as_json(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Return the layouts as JSON-serializable values, best first."""
    return [
        {
            "layout": asdict(each.layout),
            "peak_bytes": each.size,
            "fits": each.fits,
            "bubble_fraction": each.bubble / (1 + each.bubble),
        }
        for each in candidates
    ]

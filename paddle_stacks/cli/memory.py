"""The task that tells what every card holds, before anything runs."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Any

from paddle_stacks.cli import ROOT, task
from paddle_stacks.errors import RequestError
from paddle_stacks.memory.request import CHOICES, NUMBERS, OPTIONS

_HELP = {name: f"{text[0].upper()}{text[1:]}." for name, text in OPTIONS.items()} | {
    "search": "List every layout of that many cards, the best first.",
    "json": "Print one JSON document.",
    "svg": "Write the pipeline's schedule, of its first micro-batches, to this file.",
}


_FORMS = {name: "|".join(choices) for name, choices in CHOICES.items()} | dict.fromkeys(
    ("cards", *NUMBERS), "INT"
)


@task(help=_HELP, forms=_FORMS)
def memory(
    context: Any,
    model: str | None = None,
    config: str | None = None,
    cards: str | None = None,
    layout: str | None = None,
    card: str | None = None,
    dtype: str | None = None,
    level: str | None = None,
    method: str | None = None,
    rank: str | None = None,
    batch: str | None = None,
    sequence: str | None = None,
    micro_batches: str | None = None,
    recompute: str | None = None,
    flash: bool = False,
    block_attn: bool = False,
    weights: str | None = None,
    cache: str | None = None,
    search: bool = False,
    json: bool = False,
    svg: str | None = None,
) -> None:
    """Estimate the memory of each card.

    ./inv memory --model llama-2-13b --cards 8 --layout pp=8
    """
    from paddle_stacks import settings
    from paddle_stacks.memory import request as requests
    from paddle_stacks.memory import schedule, show

    written = {
        "model": model,
        "config": config,
        "cards": cards,
        "layout": layout,
        "card": card,
        "dtype": dtype,
        "level": level,
        "method": method,
        "rank": rank,
        "batch": batch,
        "sequence": sequence,
        "micro-batches": micro_batches,
        "recompute": recompute,
        "flash": "true" if flash else None,
        "block-attn": "true" if block_attn else None,
        "weights": weights,
        "cache": cache,
    }
    options = {name: value for name, value in written.items() if value is not None}
    request = requests.make(options, settings.load(ROOT, {}).workspace)
    if search:
        candidates = requests.ranked(request)
        if json:
            print(json_module.dumps(show.candidates_as_json(candidates), indent=2))
        else:
            print("\n".join(show.candidates_as_lines(candidates, request)))
        return
    plans, problem = requests.check(request)
    if svg:
        shape = request.layout
        text = schedule.as_svg(shape.pipeline, show.drawn_batches(request), shape.virtual)
        _write(Path(svg), text)
    if json:
        document = show.as_json(request, plans, fits=problem is None)
        print(json_module.dumps(document, indent=2))
    else:
        print("\n".join(show.as_lines(request, plans, fits=problem is None)))
    if problem:
        raise RequestError(problem)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(
            f"cannot be written: {error.strerror}",
            where=f"--svg {path}",
            remedy="--svg FILE, in a folder that is there and may be written",
        ) from error

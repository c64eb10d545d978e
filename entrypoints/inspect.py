"""The ``inspect`` job: statistics, samples and a plot of a corpus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from entrypoints.runtime.arguments import parse
from entrypoints.runtime.console import note, say
from entrypoints.runtime.disk import writing_below
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import corpus, workspace
from paddle_stacks.jobs.corpus import Part
from paddle_stacks.jobs.options import InspectOptions

__all__ = ["main"]

_SHOWN_TOKENS = 48


def main(argv: list[str]) -> int:
    """Run the job; print the statistics."""
    arguments = parse(InspectOptions, argv)
    corpus.shares(arguments.split)
    parts = corpus.parts(arguments.corpus)
    from entrypoints.preparing import pair, shape

    for part in parts:
        pair.check(part.pair)
        sizes = pair.lengths(part.pair)
        say(f"{part.pair.prefix}" + (f"  weight {part.weight:.4g}" if len(parts) > 1 else ""))
        say("\n".join(f"  {line}" for line in shape.lines(sizes, arguments.split)))
        say("\n".join(f"  {line}" for line in _samples(part, arguments, sizes)))
    plot = Path(arguments.plot) if arguments.plot else _beside(parts)
    with writing_below(plot.parent):
        shape.draw([(str(p.pair.prefix), pair.lengths(p.pair)) for p in parts], plot)
    note(f"the lengths are plotted in {plot}")
    return 0


def _beside(parts: Sequence[Part]) -> Path:
    first = parts[0].pair.prefix
    return first.with_name(f"{first.name}.lengths.png")


def _samples(part: Part, arguments: InspectOptions, sizes: Any) -> list[str]:
    """Return the beginnings of a few evenly spaced documents."""
    count = min(max(arguments.samples, 0), len(sizes))
    model = _model(part, arguments.model)
    if not count or model is None:
        return []
    from entrypoints.runtime.logging import libraries_log_to

    libraries_log_to(None)
    from entrypoints.models.tokenizer import load as load_tokenizer
    from entrypoints.preparing import pair

    tokenizer = load_tokenizer(model)
    lines = []
    for number in range(count):
        document = number * len(sizes) // count
        ids = pair.tokens(part.pair, document, _SHOWN_TOKENS)
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        more = " …" if sizes[document] > len(ids) else ""
        lines.append(f"document {document} ({sizes[document]} tokens): {text!r}{more}")
    return lines


def _model(part: Part, name: str | None) -> Path | None:
    """Return the model whose tokenizer created the corpus, or None if it is unknown."""
    if name:
        return workspace.find_model(name)
    prefix = part.pair.prefix
    try:
        manifest = json.loads(corpus.manifest_path(prefix).read_text(encoding="utf-8"))
        return workspace.find_model(str(manifest["model"]))
    except (OSError, ValueError, KeyError, TypeError, RequestError):
        note(f"the tokenizer of {prefix} is unknown: use --model NAME to show samples")
        return None

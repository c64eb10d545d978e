"""The tasks that say why something is there, what a message means, and which errors there are."""

from __future__ import annotations

import json as jsons
import sys
from typing import Any

from paddle_stacks.cli import ROOT, task

__all__ = ["errors", "explain"]


@task(
    positional=["word"],
    help={
        "word": "What to explain, or a message as it was said; - reads it from standard input.",
        "json": "Print one JSON document.",
    },
)
def explain(context: Any, word: str, json: bool = False) -> None:
    """Say what an error message means, and what to do about it."""
    from paddle_stacks.explain import answers

    asked = sys.stdin.read() if word == "-" else word
    found = answers.answer(asked, ROOT)
    if json:
        print(jsons.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        print(found.text())


@task(
    help={
        "json": "Print one JSON document.",
        "markdown": "Print the page docs/errors.md.",
    }
)
def errors(context: Any, json: bool = False, markdown: bool = False) -> None:
    """List every error there is, with what to do about it."""
    from paddle_stacks.doctor import CHECKS, logs
    from paddle_stacks.explain import errors as index
    from paddle_stacks.explain import page, sources

    found = index.load(ROOT)
    if json:
        values = [page.entry_as_json(entry) for entry in found]
        print(jsons.dumps(values, indent=2, ensure_ascii=False))
    elif markdown:
        abouts = sources.abouts(sources.load(ROOT))
        print(page.as_markdown(found, abouts, CHECKS, logs.known()), end="")
    else:
        for entry in found:
            print(f"{entry.path}: {entry.what}")

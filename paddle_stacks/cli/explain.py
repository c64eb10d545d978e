"""The tasks that say why something is there, what a message means, which errors and keys are."""

from __future__ import annotations

import json as jsons
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from paddle_stacks.cli import ROOT, task

if TYPE_CHECKING:
    from paddle_stacks.explain.commands import Option
    from paddle_stacks.explain.configuration import KeyRow

__all__ = ["errors", "explain", "keys", "tasks_and_options"]


@task(
    positional=["word"],
    help={
        "word": "What to explain, or a message as it was said; - reads it from standard input.",
        "json": "Print one JSON document.",
    },
)
def explain(context: Any, word: str, json: bool = False) -> None:
    """Say why something is there, or what a message means.

    Images and stages, labels, packages, options, jobs, recipes, models, keys of a
    configuration, settings, variables, checks, failures, exit statuses and error messages
    have a name; this says what is known of one, from the files that it is made of.
    """
    from paddle_stacks.explain import answers

    asked = sys.stdin.read() if word == "-" else word
    found = answers.answer(asked, ROOT, *tasks_and_options())
    if json:
        print(jsons.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        print(found.text())


def tasks_and_options() -> tuple[dict[str, str], list[Option]]:
    """Return what the tasks are for, and their options."""
    # Not at the top: the collection imports this module.
    from paddle_stacks.explain.commands import Option
    from tasks import namespace

    summaries: dict[str, str] = {}
    options = []
    for name in namespace.task_names:
        found = namespace[name]
        summaries[name] = (found.__doc__ or "").split("\n")[0]
        options += [
            Option(name, f"--{argument.names[0].replace('_', '-')}", argument.help or "")
            for argument in found.get_arguments()
        ]
    return summaries, options


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


@task(
    help={
        "json": "Print one JSON document.",
        "markdown": "Print the page docs/keys.md.",
    }
)
def keys(context: Any, json: bool = False, markdown: bool = False) -> None:
    """List the keys of configurations, with what they mean."""
    from paddle_stacks.explain import configuration, page

    rows = list(configuration.key_rows(ROOT))
    if json:
        print(jsons.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
    elif markdown:
        print(page.keys_as_markdown(rows), end="")
    else:
        _show_keys(rows)


def _show_keys(rows: Sequence[KeyRow]) -> None:
    width = shutil.get_terminal_size().columns
    for group, found in groupby(rows, key=lambda row: row.group):
        print(f"{group}")
        for row in found:
            said = f"{row.says} Default: {row.default}."
            lines = textwrap.wrap(said, max(width - 4, 40))
            print("\n".join([f"  {row.name}", *(f"    {line}" for line in lines)]))
        print()

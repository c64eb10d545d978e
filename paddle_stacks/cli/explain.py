"""The tasks that explain a name and list the keys of configurations."""

from __future__ import annotations

import json as jsons
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from paddle_stacks.cli import ROOT, summary, task

if TYPE_CHECKING:
    from paddle_stacks.explain.commands import Option
    from paddle_stacks.explain.configuration import KeyRow

__all__ = ["explain", "keys", "tasks_and_options"]


@task(
    positional=["word"],
    help={
        "word": "A name, or a line of a log; - reads standard input.",
        "json": "Print one JSON document.",
    },
)
def explain(context: Any, word: str, json: bool = False) -> None:
    """Explain a pin, key, option, setting, check or failure.

    Also images and their stages, labels, variables, jobs, tasks, recipes, models and exit
    statuses. The explanation comes from the file that defines the name. A line of a log is
    compared with the known failures.
    """
    from paddle_stacks.explain import answers

    query = sys.stdin.read() if word == "-" else word
    answer = answers.answer(query, ROOT, *tasks_and_options())
    if json:
        print(jsons.dumps(answer.to_json(), indent=2, ensure_ascii=False))
    else:
        print(answer.text())


def tasks_and_options() -> tuple[dict[str, str], list[Option]]:
    """Return what the tasks are for, and their options."""
    # Not at the top: the collection imports this module.
    from paddle_stacks.explain.commands import Option
    from tasks import namespace

    summaries: dict[str, str] = {}
    options = []
    for name in namespace.task_names:
        entry = namespace[name]
        summaries[name] = summary(entry)
        options += [
            Option(name, f"--{argument.names[0].replace('_', '-')}", argument.help or "")
            for argument in entry.get_arguments()
        ]
    return summaries, options


@task(
    help={
        "json": "Print one JSON document.",
        "markdown": "Print the page docs/keys.md.",
    }
)
def keys(context: Any, json: bool = False, markdown: bool = False) -> None:
    """List the keys of a configuration with their meaning."""
    from paddle_stacks.explain import configuration, page

    rows = list(configuration.key_rows())
    if json:
        print(jsons.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
    elif markdown:
        print(page.keys_as_markdown(rows), end="")
    else:
        _show_keys(rows)


def _show_keys(rows: Sequence[KeyRow]) -> None:
    width = shutil.get_terminal_size().columns
    for group, members in groupby(rows, key=lambda row: row.group):
        print(f"{group}")
        for row in members:
            text = f"{row.says} Default: {row.default}."
            lines = textwrap.wrap(text, max(width - 4, 40))
            print("\n".join([f"  {row.name}", *(f"    {line}" for line in lines)]))
        print()

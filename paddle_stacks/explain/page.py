"""The page ``docs/keys.md``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from paddle_stacks.explain.configuration import KeyRow

__all__ = ["keys_as_markdown"]

_INTRODUCTION = (
    "# Configuration keys",
    "",
    "For everyone who writes a JSON configuration for `--config`. This page lists all keys, the "
    "jobs that use them, their types and defaults.",
    "",
    "<!-- runs: tests/unit/test_explain.py::test_the_commands_of_the_page_are_run -->",
    "```sh",
    "./inv keys                      # the same list on a terminal",
    "./inv explain learning_rate     # one key, with its older names",
    "```",
    "",
    "* Names, types and defaults are those of PaddleNLP 3.0.0b3, except for the differences listed "
    "in [Fine-tuning](finetuning.md#configuration) and [Pretraining](pretraining.md).",
    "* A default may differ between jobs.",
    "* Other keys of upstream are accepted if they have no effect, and rejected with a reason "
    "otherwise.",
    "",
    "This page is generated from `paddle_stacks/jobs/schema/keys.py` by `./inv keys --markdown`; "
    "do not edit it here.",
)


def keys_as_markdown(rows: Iterable[KeyRow]) -> str:
    """Return the page ``docs/keys.md``."""
    parts = list(_INTRODUCTION)
    for group, members in groupby(rows, key=lambda row: row.group):
        parts += [
            "",
            f"## {group}",
            "",
            "| key | meaning | jobs | type | default |",
            "|---|---|---|---|---|",
        ]
        parts += [
            f"| `{row.name}` | {row.says} | {', '.join(row.jobs)} | {row.kind} | `{row.default}` |"
            for row in members
        ]
    return "\n".join(parts) + "\n"

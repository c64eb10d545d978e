"""The page ``docs/keys.md``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from paddle_stacks.explain.configuration import KeyRow

__all__ = ["keys_as_markdown"]

_KEYS = (
    "# Keys",
    "",
    "What the JSON of `--config` may hold, in the jobs in which it has an effect, and what it "
    "means. Names, types and defaults are those of PaddleNLP 3.0.0b3, but for what "
    "[Fine-tuning](finetuning.md#configuration) and [Pretraining](pretraining.md) say; a default "
    "may differ from job to job. Upstream's other keys are accepted where they change nothing, "
    "and refused with a reason where they would. Made from the sources and `configs/keys.toml` by "
    "`./inv keys --markdown`; do not edit it here.",
    "",
    "<!-- runs: tests/unit/test_explain.py::test_the_commands_of_the_page_are_run -->",
    "```sh",
    "./inv keys                      # the same on a terminal",
    "./inv explain learning_rate     # one of them, with its older names",
    "```",
)


def keys_as_markdown(rows: Iterable[KeyRow]) -> str:
    """Return the page ``docs/keys.md``."""
    parts = list(_KEYS)
    for group, found in groupby(rows, key=lambda row: row.group):
        parts += ["", f"## {group}", "", "| key | | in | is | default |", "|---|---|---|---|---|"]
        parts += [
            f"| `{row.name}` | {row.says} | {', '.join(row.jobs)} | {row.kind} | `{row.default}` |"
            for row in found
        ]
    return "\n".join(parts) + "\n"

"""The pages ``docs/errors.md`` and ``docs/keys.md``, and the index of errors as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from paddle_stacks.doctor.finding import Check
from paddle_stacks.doctor.logs import Failure
from paddle_stacks.errors import STATUSES
from paddle_stacks.explain.configuration import KeyRow
from paddle_stacks.explain.errors import Entry
from paddle_stacks.explain.templates import Template

__all__ = ["as_markdown", "entry_as_json", "keys_as_markdown"]

_BEGINNING = (
    "# Errors",
    "",
    "Every error that the tasks and the jobs can tell, with what to do about it. Made from the "
    "sources, the doctor's list of checks and `configs/dcu/failures.toml` by "
    "`./inv errors --markdown`; do not edit it here.",
    "",
    "<!-- runs: tests/unit/test_explain.py::test_the_commands_of_the_page_are_run -->",
    "```sh",
    "./inv explain 'no suite is named \"x\"'    # a message, as it was said",
    "./inv explain - < message.txt            # the same, with whatever stands around it",
    "./inv explain pyarrow                    # why is that pinned? what has it?",
    "./inv explain learning_rate --json       # for a program",
    "```",
    "",
    "`./inv explain` knows more than errors: images and their stages, labels, packages, options, "
    "jobs, recipes, models, keys of a configuration, settings, variables, checks, exit statuses. "
    "It says why each is there, from the files that it is made of: the comments of the Dockerfile "
    "and of the requirements, the locks, the help of the options.",
    "",
    "`{word}` stands for what is known only when it is said. Several remedies are for several "
    "cases. An error is told on standard error in three lines: `error:` what, `at:` where, "
    "`fix:` what to do.",
    "",
    "| exit status | meaning |",
    "|---|---|",
)


_RULE = "|---|---|---|---|"

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


def as_markdown(
    index: Sequence[Entry],
    abouts: Mapping[str, str],
    checks: Iterable[Check],
    failures: Iterable[Failure],
) -> str:
    """Return the page.

    Args:
        index: the messages.
        abouts: what each folder with programs is for, by its path.
        checks: the doctor's.
        failures: those that are known from logs.
    """
    statuses = (_row(f"`{status}`", meaning) for status, meaning in STATUSES.items())
    lines = [*_BEGINNING, *statuses, ""]
    said = [entry for entry in index if entry.kind == "error"]
    for folder, entries in groupby(said, key=lambda entry: _folder(entry.path)):
        about = abouts.get(folder, "")
        lines += [f"## `{folder}`", "", *([f"{about}.", ""] if about else [])]
        lines += [_row("error", "what to do", "status", "said in"), _RULE]
        lines += [_of_entry(entry, PurePosixPath(entry.path).name) for entry in entries]
        lines.append("")
    answers = [entry for entry in index if entry.kind == "answer"]
    lines += ["## The server's answers", "", "What `serve` answers a request that it refuses.", ""]
    lines += [_row("answer", "status"), "|---|---|"]
    lines += [_row(_code(entry.what), entry.status) for entry in answers]
    lines += ["", "## The doctor's findings", ""]
    lines += ["`./inv doctor` makes these [checks](doctor.md), and says what to do.", ""]
    lines += [_row("check", "looks at", "platforms", "worst"), _RULE]
    for check in checks:
        platforms = ", ".join(check.backends)
        lines.append(_row(f"`{check.name}`", check.title, platforms, check.worst))
    lines += ["", _row("finding", "what to do", "status", "said in"), _RULE]
    findings = [entry for entry in index if entry.kind == "finding"]
    lines += [_of_entry(entry, PurePosixPath(entry.path).name) for entry in findings]
    lines += ["", "## Failures that logs tell of", ""]
    lines += ["`./inv doctor --log` looks for these. Who has seen one stands behind it.", ""]
    lines += [_row("failure", "cause", "what to do", "seen in"), _RULE]
    for failure in failures:
        lines.append(_row(f"`{failure.name}`", failure.cause, failure.remedy, failure.source))
    return "\n".join(lines) + "\n"


def entry_as_json(entry: Entry) -> dict[str, Any]:
    """Return a message as JSON-serializable values."""
    return {
        "kind": entry.kind,
        "what": str(entry.what),
        "remedies": [str(remedy) for remedy in entry.remedies if remedy.parts],
        "status": entry.status,
        "path": entry.path,
        "line": entry.line,
        "about": entry.about,
    }


def _of_entry(entry: Entry, name: str) -> str:
    remedies = "<br>".join(_code(remedy) for remedy in entry.remedies)
    return _row(_code(entry.what), remedies, entry.status, f"`{name}`")


def _folder(path: str) -> str:
    folder = str(PurePosixPath(path).parent)
    return path if folder == "." else f"{folder}/"


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _code(text: Template) -> str:
    """Return it as code, so that nothing in it is taken for markup."""
    said = str(text)
    fence = "``" if "`" in said else "`"
    padding = " " if fence == "``" else ""
    return f"{fence}{padding}{said}{padding}{fence}"

"""Prompts from data files in upstream's format, or upstream's default prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrypoints.fused.options import Options
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.prompts import Message, Prompt, listed

__all__ = ["Example", "read"]

_USUAL = "解释一下温故而知新"
"""Upstream's prompt without a data file."""


@dataclass(frozen=True)
class Example:
    """A prompt with its record.

    Args:
        prompt: the prompt.
        source: ``src`` of the record.
        target: ``tgt`` of the record.
    """

    prompt: Prompt
    source: Any
    target: Any


def read(options: Options) -> list[Example]:
    """Return the prompts of a run.

    Raises:
        RequestError: the data file cannot be read, or has invalid lines.
    """
    if not options.data_file:
        prompt = Prompt(0, (Message("user", _USUAL),), plain=True)
        return [Example(prompt, _USUAL, "")] * options.batch_size
    path = Path(options.data_file)
    examples: list[Example] = []
    problems: list[Problem] = []
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}:{number}"
        try:
            examples.append(_example(json_files.parse(line), where))
        except ValueError as error:
            problems.append(Problem(str(error), where, 'write {"src": "…", "tgt": ""}'))
    if problems:
        raise RequestError(listed(problems, "bad lines"))
    if not examples:
        raise RequestError("no prompts", where=str(path), remedy='write {"src": "…", "tgt": ""}')
    return examples


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        fault = f"the prompts cannot be read: {error}"
        raise RequestError(fault, where=str(path), remedy="check --data_file") from None


def _example(entry: Any, where: str) -> Example:
    """Return the prompt of a line.

    Raises:
        ValueError: the line is invalid.
    """
    if not isinstance(entry, Mapping) or "src" not in entry:
        raise ValueError("src is missing")
    source, target = entry["src"], entry.get("tgt", "")
    if isinstance(source, str):
        prompt = Prompt(where, (Message("user", source),), plain=True, where=where)
        return Example(prompt, source, target)
    answers = target if isinstance(target, list) else []
    words = [*source, *answers] if isinstance(source, list) else []
    if not source or not words or not all(isinstance(word, str) for word in words):
        raise ValueError("src is neither a string nor a list of strings")
    if len(answers) < len(source) - 1:
        raise ValueError(f"src has {len(source)} turns, but tgt has {len(answers)} answers")
    messages = [Message("user", source[0])]
    for answer, question in zip(answers, source[1:], strict=False):
        messages += [Message("assistant", answer), Message("user", question)]
    plain = len(messages) == 1
    return Example(Prompt(where, tuple(messages), plain=plain, where=where), source, "")

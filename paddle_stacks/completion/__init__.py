"""Tab completion of ``./inv``.

A shell runs ``./inv --complete -- LINE`` with the line up to the cursor, and offers the printed
words: tasks, options of the task, and values of the option. If nothing is printed, the shell
offers file names.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import RequestError, suggest

__all__ = ["SHELLS", "Vocabulary", "candidates", "script"]

SHELLS = ("bash", "zsh", "fish")
"""The supported shells."""


@dataclass(frozen=True)
class Vocabulary:
    """The words that can be completed.

    Args:
        options: the options of each task, with dashes, and whether each takes a value.
        first: functions that return the values of a task's first argument, by task.
        values: functions that return an option's values for the words of the line, by option.
    """

    options: Mapping[str, Mapping[str, bool]]
    first: Mapping[str, Callable[[], Iterable[str]]]
    values: Mapping[str, Callable[[list[str]], Iterable[str]]]


def script(shell: str) -> str:
    """Return the completion script of a shell.

    Raises:
        RequestError: the shell is not supported.
    """
    if shell not in SHELLS:
        raise RequestError(
            f'no completion for "{shell}"',
            where="--print-completion-script",
            remedy=suggest(shell, SHELLS, "shells"),
        )
    return (Path(__file__).parent / f"inv.{shell}").read_text(encoding="utf-8")


def candidates(line: str, vocabulary: Vocabulary) -> list[str]:
    """Return the completions of a line's last word, sorted; [] if there are none.

    Args:
        line: up to the cursor, with the program's name.
        vocabulary: the words that can be completed.
    """
    words = _words(line)[1:]
    *before, word = words or [""]
    task = next((each for each in before if each in vocabulary.options), "")
    if not task:
        return _matches(word, vocabulary.options)
    arguments = before[before.index(task) + 1 :]
    if "--" in arguments:
        return []
    options = vocabulary.options[task]
    name, equals, value = word.partition("=")
    if equals and options.get(name):
        return [f"{name}={match}" for match in _values(name, value, before, vocabulary)]
    if arguments and options.get(arguments[-1]):
        return _values(arguments[-1], word, before, vocabulary)
    if word.startswith("-"):
        return _matches(word, [*options, "--help"])
    if not _positional(arguments, options) and task in vocabulary.first:
        return _matches(word, vocabulary.first[task]())
    return []


def _words(line: str) -> list[str]:
    """Return the words of a line that may end inside a word or a quotation."""
    for end in ("", '"', "'"):
        try:
            words = shlex.split(line + end)
        except ValueError:
            continue
        return [*words, ""] if line[-1:].isspace() and not end else words
    return line.split()


def _matches(word: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(word)})


def _values(option: str, word: str, before: list[str], vocabulary: Vocabulary) -> list[str]:
    values = vocabulary.values.get(option)
    return _matches(word, values(before)) if values else []


def _positional(arguments: list[str], options: Mapping[str, bool]) -> list[str]:
    """Return the arguments of a task that are neither options nor their values."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return [word for last, word in pairs if word[:1] != "-" and not options.get(last)]

"""What can stand at the cursor of a line that begins with ``./inv``, for the shells.

A shell runs ``./inv --complete -- LINE`` with the line up to the cursor, and shows what is
printed: tasks, the options of the task, and the values of an option where they are known.
Nothing means that the shell is to offer the names of files.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import RequestError, suggest

__all__ = ["SHELLS", "Known", "candidates", "script"]

SHELLS = ("bash", "zsh", "fish")
"""The shells there is a script for."""


@dataclass(frozen=True)
class Known:
    """What the words of a line can be.

    Args:
        options: the options of each task, with dashes, and whether each takes a value.
        first: what a task's first argument can be, by the task's name.
        values: what an option can be set to, by its name; asked for when it is needed,
            with the words of the line.
    """

    options: Mapping[str, Mapping[str, bool]]
    first: Mapping[str, Callable[[], Iterable[str]]]
    values: Mapping[str, Callable[[list[str]], Iterable[str]]]


def script(shell: str) -> str:
    """Return what makes a shell complete ``./inv``.

    Raises:
        RequestError: there is none for that shell.
    """
    if shell not in SHELLS:
        raise RequestError(
            f'there is no completion for "{shell}"',
            where="--print-completion-script",
            remedy=suggest(shell, SHELLS, "shells"),
        )
    return (Path(__file__).parent / f"inv.{shell}").read_text(encoding="utf-8")


def candidates(line: str, vocabulary: Known) -> list[str]:
    """Return what the last word of a line can be, in order; [] where nothing is known.

    Args:
        line: up to the cursor, with the program's name.
        vocabulary: what there is.
    """
    words = _words(line)[1:]
    *before, word = words or [""]
    task = next((each for each in before if each in vocabulary.options), "")
    if not task:
        return _beginning(word, vocabulary.options)
    behind = before[before.index(task) + 1 :]
    if "--" in behind:
        return []
    options = vocabulary.options[task]
    name, equals, value = word.partition("=")
    if equals and options.get(name):
        return [f"{name}={match}" for match in _values(name, value, before, vocabulary)]
    if behind and options.get(behind[-1]):
        return _values(behind[-1], word, before, vocabulary)
    if word.startswith("-"):
        return _beginning(word, [*options, "--help"])
    if not _positional(behind, options) and task in vocabulary.first:
        return _beginning(word, vocabulary.first[task]())
    return []


def _words(line: str) -> list[str]:
    """Return the words of a line that may end within one, or within quotes."""
    for end in ("", '"', "'"):
        try:
            words = shlex.split(line + end)
        except ValueError:
            continue
        return [*words, ""] if line[-1:].isspace() and not end else words
    return line.split()


def _beginning(word: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(word)})


def _values(option: str, word: str, before: list[str], vocabulary: Known) -> list[str]:
    ask = vocabulary.values.get(option)
    return _beginning(word, ask(before)) if ask else []


def _positional(behind: list[str], options: Mapping[str, bool]) -> list[str]:
    """Return the words of a task that are neither options nor their values."""
    positional = []
    previous = ""
    for word in behind:
        if not word.startswith("-") and not options.get(previous):
            positional.append(word)
        previous = word
    return positional

"""Errors for users, and how they are printed.

Every error says what is wrong, where, and how to fix it. Its class determines the exit status
(:data:`STATUSES`), in every program of the project.

Standard library only, because the host and the containers import this module.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

__all__ = [
    "STATUSES",
    "BuildError",
    "JobError",
    "MachineError",
    "Problem",
    "RequestError",
    "StackError",
    "Stopped",
    "did_you_mean",
    "printable",
    "render",
    "suggest",
    "without_login",
]

_CLOSE = 0.7  # minimum ratio of difflib; below it, a word is not a misspelling
_MAX_SHOWN = 4000
"""Maximum characters of a message's line, because names in files can have any length."""

_CONTINUE = (
    "run the same command again; training, fetch, prepare and export continue where they stopped"
)

# C0 but for tabs and ends of line, DEL, C1, surrogates, and Unicode's controls of direction,
# its separators of lines and its invisible tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\U000e0000-\U000e007f]|\r(?!\n)"
)

# With a scheme: up to the last @ of the authority; with a password, up to the last @ of the
# word, because some passwords contain slashes.
_LOGIN_IN_URL = re.compile(
    r"(?<=//)(?:[^\s/?#@:\"'<>]*:(?!\d*(?:[/?#\s]|$))[^\s\"'<>]*|[^\s/?#\"'<>]*)@"
)
_LOGINS = (
    (_LOGIN_IN_URL, "***@"),
    # Without a scheme, as in proxies; not an image with its tag and digest.
    (re.compile(r"(?:^|(?<=[\s=,\"']))[^\s/@:=,\"']+:[^\s/\"']*@(?!sha256:)(?=[\w\[])"), "***@"),
    (
        re.compile(
            r"([?&](?:access_token|api_?key|auth|key|pass(?:word|wd)?|private_token|pwd|secret"
            r"|sig(?:nature)?|token)=)[^&\s#]+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
)

STATUSES: dict[str, str] = {
    "0": "done",
    "2": "the request is wrong: arguments, configuration or data",
    "3": "the machine is not fit: no engine, no disk, no device",
    "4": "a build failed",
    "5": "a job failed",
    "128+n": "stopped by signal n",
}
"""The exit statuses and their meanings, as in every ``--help``."""


@dataclass(frozen=True)
class Problem:
    """A fault in a request, a machine or a job.

    Args:
        what: the fault, one sentence without a full stop.
        where: ``file:line``, a key, a record number or a path; may be empty.
        remedy: how to fix it.

    Raises:
        ValueError: the remedy is empty.
    """

    what: str
    where: str
    remedy: str

    def __post_init__(self) -> None:
        if not self.remedy:
            raise ValueError(f"no remedy for: {self.what}")


class StackError(Exception):
    """Base of all errors for users.

    Args:
        problems: a sentence, a :class:`Problem`, or several problems.
        where: the place of the fault, for a sentence.
        remedy: how to fix it, for a sentence.
    """

    status: int = 5

    @overload
    def __init__(self, problems: Problem | Sequence[Problem]) -> None: ...
    @overload
    def __init__(self, problems: str, *, where: str = "", remedy: str) -> None: ...
    def __init__(
        self, problems: str | Problem | Sequence[Problem], *, where: str = "", remedy: str = ""
    ) -> None:
        if isinstance(problems, str):
            problems = Problem(problems, where, remedy)
        if isinstance(problems, Problem):
            problems = (problems,)
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("; ".join(p.what for p in self.problems))


class RequestError(StackError):
    """The request is wrong: arguments, configuration or data (status 2)."""

    status = 2


class MachineError(StackError):
    """The machine is not fit for the request (status 3)."""

    status = 3


class BuildError(StackError):
    """A build failed (status 4)."""

    status = 4


class JobError(StackError):
    """A job failed (status 5)."""

    status = 5


class Stopped(StackError):
    """The work was stopped by a signal (status 128 + n)."""

    def __init__(self, signum: int, what: str = "", remedy: str = _CONTINUE) -> None:
        super().__init__(what or f"stopped by signal {signum}", remedy=remedy)
        self.status = 128 + signum


def printable(text: str, limit: int = 0) -> str:
    r"""Return text that is safe to print on a terminal.

    Control characters and Unicode's bidirectional controls, which change how text reads,
    become escapes such as ``\x1b`` and ``\u202e``. Line ends and tabs stay.

    Args:
        text: text from outside, such as a job's output or a name in a file.
        limit: maximum number of characters; 0 for all.
    """
    if limit and len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit} more)"
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def without_login(text: str) -> str:
    """Return text with the logins in its URLs replaced by ``***``.

    These are a user and password before the host, with or without a scheme and with any
    characters, and keys in a query, such as ``?token=…``.
    """
    for pattern, replacement in _LOGINS:
        text = pattern.sub(replacement, text)
    return text


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``did you mean "x"?`` for the nearest choice; empty if none is near.

    A choice that starts with the word is near, however long it is. Leading dashes are ignored,
    because they would make short options similar.
    """
    bare = word.lstrip("-")
    words = {candidate.lstrip("-"): candidate for candidate in sorted(choices, key=len)}
    begun = [candidate for candidate in words if len(bare) > 2 and candidate.startswith(bare)]
    near = begun or difflib.get_close_matches(bare, words, n=1, cutoff=_CLOSE)
    return f'did you mean "{words[near[0]]}"?' if near else ""


def suggest(word: str, choices: Iterable[str], label: str) -> str:
    """Return a remedy for an unknown word: the nearest choice, and all choices.

    Args:
        word: the word.
        choices: the valid words.
        label: a noun for them in the plural, such as ``backends``.
    """
    names = list(choices)
    return f"{did_you_mean(word, names)} {label}: {', '.join(names)}".strip()


def render(error: StackError, *, colour: bool = False) -> str:
    """Return the error as text: fault, place and remedy, one line each."""
    red, bold, off = ("\033[31m", "\033[1m", "\033[0m") if colour else ("", "", "")
    lines = []
    for problem in error.problems:
        lines.append(f"{red}{bold}error:{off} {_shown(problem.what)}")
        if problem.where:
            lines.append(f"   at: {_shown(problem.where)}")
        lines.append(f"  fix: {_shown(problem.remedy)}")
    return "\n".join(lines)


def _shown(text: str) -> str:
    """Return a part of a message without logins and control characters."""
    return printable(_LOGIN_IN_URL.sub("***@", text), _MAX_SHOWN)

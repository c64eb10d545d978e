"""The one family of errors, and how a person is told about them.

Every error names what is wrong, where, and what to do. Its class decides the
exit status (:data:`STATUSES`), the same in every program of the project.

Standard library only: the host and the containers both import this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    "render",
]

_CLOSE = 0.7  # of difflib's ratio; below it, a word is another word and not a misspelt one

STATUSES: dict[str, str] = {
    "0": "done",
    "2": "the request is wrong: arguments, configuration or data",
    "3": "the machine is not fit: no engine, no disk, no device",
    "4": "a build failed",
    "5": "a job failed",
    "128+n": "stopped by signal n",
}
"""The exit statuses and what each means, as every ``--help`` shows them."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        what: the fault, one sentence without a full stop.
        where: ``file:line``, a key, a record number or a path; may be empty.
        remedy: what to do about it; may be empty.
    """

    what: str
    where: str = ""
    remedy: str = ""


class StackError(Exception):
    """Base of all errors a user is meant to read.

    Args:
        problems: a sentence, one :class:`Problem`, or several of them.
        where: with a sentence: where the fault is.
        remedy: with a sentence: what to do about it.
    """

    status: int = 5

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

    def __init__(self, signum: int, what: str = "") -> None:
        super().__init__(what or f"stopped by signal {signum}")
        self.status = 128 + signum


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean "x"?`` for the nearest known word, or an empty string.

    A word of which only the beginning was given (``smollm2``) is near, however long it is.
    Dashes in front do not count: they would make any two short options alike.
    """
    bare = word.lstrip("-")
    words = {candidate.lstrip("-"): candidate for candidate in sorted(known, key=len)}
    begun = [candidate for candidate in words if len(bare) > 2 and candidate.startswith(bare)]
    near = begun or difflib.get_close_matches(bare, words, n=1, cutoff=_CLOSE)
    return f'did you mean "{words[near[0]]}"?' if near else ""


def render(error: StackError, *, colour: bool = False) -> str:
    """Return the error as a person reads it: what, where and the remedy, a line each."""
    red, bold, off = ("\033[31m", "\033[1m", "\033[0m") if colour else ("", "", "")
    lines = []
    for problem in error.problems:
        lines.append(f"{red}{bold}error:{off} {problem.what}")
        if problem.where:
            lines.append(f"   at: {problem.where}")
        if problem.remedy:
            lines.append(f"  fix: {problem.remedy}")
    return "\n".join(lines)

"""Recognize known failures in a job's log.

The known failures are in ``configs/dcu/failures.toml``. Logs are read in blocks, so
they may be of any size, and may contain colours, progress bars and binary data.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any

from paddle_stacks import toml
from paddle_stacks.errors import MachineError, Problem, RequestError

__all__ = ["TABLE", "Cause", "Failure", "diagnose", "known_failures", "load", "read", "status_of"]

TABLE = Path(__file__).resolve().parents[2] / "configs" / "dcu" / "failures.toml"

_BLOCK = 2**20
# A line longer than a block is searched in pieces that overlap by this much, which is
# more than any pattern spans.
_OVERLAP = 4096
_MAX_SHOWN = 160

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[@-Z\\-_])")
# The tokens of a pattern: an escape, a set, a quantifier, a character.
_TOKENS = re.compile(
    r"\\(?P<escaped>.)|\[\^?\]?[^\]]*\]|(?P<quantifier>\{\d*,?\d*\}|\?)|(?P<plain>.)"
)
_MIN_LANDMARK = 4
# A pattern without these consists of its operators.
_LITERALS = re.compile(r"\\.|\[\^?\]?[^\]]*\]")
_KEYS: dict[str, bool] = {
    "pattern": True,
    "cause": True,
    "remedy": True,
    "source": True,
    "follows": False,
}


@dataclass(frozen=True)
class Failure:
    """A known failure.

    Args:
        name: a few words, joined by hyphens.
        pattern: matches the lines of a log that show the failure.
        cause: what went wrong, one sentence without a full stop.
        remedy: how to fix it.
        source: where it was reported: ``Paddle#65227``, or a document.
        follows: failures that cause this one: if the log has one of them too, that one
            is the root cause.
    """

    name: str
    pattern: re.Pattern[str]
    cause: str
    remedy: str
    source: str
    follows: tuple[str, ...] = ()

    @cached_property
    def landmarks(self) -> tuple[str, ...]:
        """Strings of which every matching text contains at least one; empty if there are none.

        Searching for a string is ten times as fast as searching for a pattern.
        """
        strings = [max(chunks, key=len) for chunks in _chunks(self.pattern.pattern)]
        return tuple(strings) if min(map(len, strings)) >= _MIN_LANDMARK else ()

    def search(self, text: str) -> re.Match[str] | None:
        """Return the first match of the failure in the text."""
        if self.landmarks and not any(landmark in text for landmark in self.landmarks):
            return None
        return self.pattern.search(text)


@dataclass(frozen=True)
class Cause:
    """A known failure found in a log.

    Args:
        failure: the failure.
        line: the first line that shows it, counted from 1.
        text: that line, without colours and shortened.
        follows: the failures in the log that it follows from.
    """

    failure: Failure
    line: int
    text: str
    follows: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the cause as JSON-serializable values."""
        return {
            "failure": self.failure.name,
            "line": self.line,
            "text": self.text,
            "cause": self.failure.cause,
            "remedy": self.failure.remedy,
            "source": self.failure.source,
            "follows": list(self.follows),
        }


@cache
def known_failures() -> tuple[Failure, ...]:
    """Return the failures of the project's own table."""
    return load(TABLE)


def load(path: Path) -> tuple[Failure, ...]:
    """Return the failures in a table.

    Raises:
        RequestError: with one problem for each fault in it.
    """
    table = toml.read(path)
    problems: list[Problem] = []
    failures = []
    for name, entry in table.items():
        faults = _faults(path, name, entry, table)
        problems += faults
        if not faults:
            values = {**entry, "follows": tuple(entry.get("follows", ()))}
            values["pattern"] = re.compile(entry["pattern"])
            failures.append(Failure(name=name, **values))
    if problems:
        raise RequestError(problems)
    return tuple(failures)


def read(path: str, failures: tuple[Failure, ...] | None = None) -> list[Cause]:
    """Return the known failures in a log, root causes first.

    Args:
        path: path of the log or of a run's folder (its ``run.log``); ``-`` for standard input.
        failures: the failures to search for; default: the project's table.

    Raises:
        RequestError: it cannot be read.
    """
    failures = known_failures() if failures is None else failures
    if path == "-":
        return diagnose(sys.stdin.buffer, failures)
    log = Path(path).expanduser()
    if log.is_dir():
        log = log / "run.log"
    try:
        with log.open("rb") as stream:
            return diagnose(stream, failures)
    except OSError as error:
        raise RequestError(
            f"cannot read the log: {error.strerror}",
            where=str(log),
            remedy="a run's log is runs/NAME/run.log; each device's is log/workerlog.N",
        ) from error


def diagnose(stream: IO[bytes], failures: tuple[Failure, ...]) -> list[Cause]:
    """Return the failures in a log, by their first line, root causes before their effects."""
    remaining = list(failures)
    causes: list[Cause] = []
    for number, text in _blocks(stream):
        for failure in list(remaining):
            if match := failure.search(text):
                line = number + text.count("\n", 0, match.start())
                causes.append(Cause(failure, line, _line(text, match)))
                remaining.remove(failure)
        if not remaining:
            break
    causes.sort(key=lambda cause: cause.line)
    return _roots_first(causes)


def status_of(causes: list[Cause]) -> int:
    """Return the exit status: 3 if a cause was found, else 0."""
    return MachineError.status if causes else 0


def _blocks(stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield blocks of text with the number of their first line; lines are split only if huge."""
    start = stream.read(_BLOCK)
    wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decode: Callable[[bytes, bool], str] = codecs.getincrementaldecoder(
        "utf-16" if wide else "utf-8"
    )("replace").decode
    number, rest, piece = 1, "", start
    while piece:
        text = rest + decode(piece, False)
        cut = text.rfind("\n") + 1
        if not cut and len(text) > _BLOCK:
            yield number, _plain(text)
            rest = text[-_OVERLAP:]
        elif cut:
            yield number, _plain(text[:cut])
            number += text.count("\n", 0, cut)
            rest = text[cut:]
        else:
            rest = text
        piece = stream.read(_BLOCK)
    if rest := rest + decode(b"", True):
        yield number, _plain(rest)


def _plain(text: str) -> str:
    return _ANSI.sub("", text.replace("\r\n", "\n"))


def _chunks(pattern: str) -> list[list[str]]:
    """Return, for each alternative of a pattern, the strings that a match must contain."""
    branches = [[""]]
    depth = 0
    for piece in _TOKENS.finditer(pattern):
        escaped, plain = piece["escaped"], piece["plain"]
        depth += (plain == "(") - (plain == ")")
        literal = plain if plain and plain not in ".^$()|" else escaped
        if depth:
            continue
        if plain == "|":
            branches.append([""])
        elif literal and not (escaped and escaped.isalnum()):
            branches[-1][-1] += literal
        else:
            if piece["quantifier"]:
                branches[-1][-1] = branches[-1][-1][:-1]
            branches[-1].append("")
    return branches


def _line(text: str, match: re.Match[str]) -> str:
    """Return the line of a match, or the part around the match if the line is long."""
    start = max(text.rfind("\n", 0, match.start()), text.rfind("\r", 0, match.start())) + 1
    end = min(i for i in (text.find("\n", match.end()), len(text)) if i >= 0)
    around = max(start, match.start() - _MAX_SHOWN // 2)
    shown = text[around : min(end, around + _MAX_SHOWN)]
    clean = " ".join("".join(c if c.isprintable() else " " for c in shown).split())
    before, after = "…" if around > start else "", "…" if around + _MAX_SHOWN < end else ""
    return f"{before}{clean}{after}"


def _roots_first(causes: list[Cause]) -> list[Cause]:
    """Return the causes in their order, but every cause after those that it follows from."""
    by_name = {cause.failure.name: cause for cause in causes}
    order: dict[str, Cause] = {}

    def place(cause: Cause, above: tuple[str, ...]) -> None:
        roots = [name for name in cause.failure.follows if name in by_name and name not in above]
        for name in sorted(roots, key=lambda name: by_name[name].line):
            place(by_name[name], (*above, cause.failure.name))
        order.setdefault(
            cause.failure.name, Cause(cause.failure, cause.line, cause.text, tuple(roots))
        )

    for cause in causes:
        place(cause, ())
    return list(order.values())


def _faults(path: Path, name: str, entry: Any, table: Mapping[str, Any]) -> list[Problem]:
    where = toml.heading_of(path, name)
    if not isinstance(entry, dict):
        return [
            Problem(
                f'"{name}" must be a table',
                where,
                f"[{name}], with pattern, cause, remedy and source",
            )
        ]
    problems = toml.unknown_keys(path, entry, _KEYS, name)
    for key, needed in _KEYS.items():
        value = entry.get(key)
        if key == "follows":
            names = entry.get(key, [])
            if not isinstance(names, list):
                problems.append(
                    Problem('"follows" must be a list of failures', where, 'follows = ["NAME", …]')
                )
            else:
                problems += [
                    Problem(
                        f'"follows" lists "{n}", which is not another failure of this file',
                        where,
                        f'remove "{n}" from "follows", or add a table [{n}]',
                    )
                    for n in names
                    if n not in table or n == name
                ]
        elif needed and not (isinstance(value, str) and value):
            problems.append(Problem(f'"{key}" must be a non-empty string', where, f'{key} = "…"'))
    return [*problems, *_pattern_faults(entry.get("pattern"), where)]


def _pattern_faults(pattern: object, where: str) -> list[Problem]:
    if not isinstance(pattern, str) or not pattern:
        return []
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        return [
            Problem(
                f'"pattern" is not a valid regular expression: {error}',
                where,
                "use the syntax of Python's re",
            )
        ]
    if re.search(r"[*+]|\{\d*,\}", _LITERALS.sub("", pattern)):
        message = '"pattern" has an unbounded repetition (* or +)'
        return [Problem(message, where, "bound it: .{0,200}")]
    if re.search(r"\(\?(?![=!])", pattern):  # look-aheads are allowed: they keep the landmarks
        message = '"pattern" has a flag or another "(?" than a look-ahead'
        return [Problem(message, where, "use [Aa] to match both cases")]
    if compiled.search(""):
        return [
            Problem(
                '"pattern" matches an empty line, hence every line',
                where,
                "use text that only lines with the failure contain",
            )
        ]
    return []

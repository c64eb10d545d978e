"""What a failed job's log says to those who have seen it before.

The failures that are known are in ``configs/dcu/failures.toml``. A log is read in
blocks, however large it is, and whatever it holds: colours, progress bars that
overwrite themselves, bytes that are no text.
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
from paddle_stacks.errors import MachineError, Problem, RequestError, did_you_mean

__all__ = ["TABLE", "Cause", "Failure", "diagnose", "known", "load", "read", "status_of"]

TABLE = Path(__file__).resolve().parents[2] / "configs" / "dcu" / "failures.toml"

_BLOCK = 2**20
# A line longer than a block is looked through in pieces that overlap by this much;
# what a pattern spans is shorter.
_OVERLAP = 4096
_SHOWN = 160

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[@-Z\\-_])")
# A pattern's pieces: an escape, a set, how often, a character.
_PIECES = re.compile(r"\\(?P<escaped>.)|\[\^?\]?[^\]]*\]|(?P<often>\{\d*,?\d*\}|\?)|(?P<plain>.)")
_LEAST_LANDMARK = 4
# What is left when these are taken away are a pattern's operators.
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
    """A failure that is known.

    Args:
        name: a few words, joined by hyphens.
        pattern: what a line of the log looks like.
        cause: what has happened, one sentence without a full stop.
        remedy: what to do about it.
        source: who has seen it: ``Paddle#65227``, or a document.
        follows: failures that bring this one with them: if one of them is in the
            log too, that is the cause.
    """

    name: str
    pattern: re.Pattern[str]
    cause: str
    remedy: str
    source: str
    follows: tuple[str, ...] = ()

    @cached_property
    def landmarks(self) -> tuple[str, ...]:
        """Strings one of which is in every text that the pattern fits; none if there are none.

        To look for a string is ten times as fast as to look for a pattern.
        """
        found = [max(chunks, key=len) for chunks in _chunks(self.pattern.pattern)]
        return tuple(found) if min(map(len, found)) >= _LEAST_LANDMARK else ()

    def search(self, text: str) -> re.Match[str] | None:
        """Return the first place in the text that tells of the failure."""
        if self.landmarks and not any(landmark in text for landmark in self.landmarks):
            return None
        return self.pattern.search(text)


@dataclass(frozen=True)
class Cause:
    """A failure that a log tells of.

    Args:
        failure: which.
        line: the first line that tells of it, counted from 1.
        text: that line, without colours and shortened.
        follows: of the failures that it follows from, those that the log tells of.
    """

    failure: Failure
    line: int
    text: str
    follows: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-serializable values."""
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
def known() -> tuple[Failure, ...]:
    """Return the failures of the project's own table."""
    return load(TABLE)


def load(path: Path) -> tuple[Failure, ...]:
    """Return the failures in a table.

    Raises:
        RequestError: with one problem for each fault in it.
    """
    table = toml.read(path)
    problems: list[Problem] = []
    found = []
    for name, entry in table.items():
        faults = _faults(path, name, entry, table)
        problems += faults
        if not faults:
            values = {**entry, "follows": tuple(entry.get("follows", ()))}
            values["pattern"] = re.compile(entry["pattern"])
            found.append(Failure(name=name, **values))
    if problems:
        raise RequestError(problems)
    return tuple(found)


def read(path: str, failures: tuple[Failure, ...] | None = None) -> list[Cause]:
    """Return what a log tells, the root of the trouble first.

    Args:
        path: of the log; of a run's folder, which has a ``run.log``; ``-`` for
            standard input.
        failures: those to look for; the project's own by default.

    Raises:
        RequestError: it cannot be read.
    """
    chosen = known() if failures is None else failures
    if path == "-":
        return diagnose(sys.stdin.buffer, chosen)
    log = Path(path).expanduser()
    if log.is_dir():
        log = log / "run.log"
    try:
        with log.open("rb") as stream:
            return diagnose(stream, chosen)
    except OSError as error:
        raise RequestError(
            f"cannot read the log: {error.strerror}",
            where=str(log),
            remedy="a run's log is runs/NAME/run.log, that of each card log/workerlog.N",
        ) from error


def diagnose(stream: IO[bytes], failures: tuple[Failure, ...]) -> list[Cause]:
    """Return what a log tells: by the first line of each failure, roots before what follows."""
    left = list(failures)
    found: list[Cause] = []
    for number, text in _blocks(stream):
        for failure in list(left):
            if match := failure.search(text):
                line = number + text.count("\n", 0, match.start())
                found.append(Cause(failure, line, _line(text, match)))
                left.remove(failure)
        if not left:
            break
    found.sort(key=lambda cause: cause.line)
    return _roots_first(found)


def status_of(causes: list[Cause]) -> int:
    """Return the exit status: 3 if a cause is named, 0 if the log tells of none."""
    return MachineError.status if causes else 0


def _blocks(stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield pieces of text with the number of their first line, whole lines as a rule."""
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
    """Return, for each alternative of a pattern, the strings that it must have."""
    branches = [[""]]
    depth = 0
    for piece in _PIECES.finditer(pattern):
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
            if piece["often"]:
                branches[-1][-1] = branches[-1][-1][:-1]
            branches[-1].append("")
    return branches


def _line(text: str, match: re.Match[str]) -> str:
    """Return the line of a match, or what of a long one is around it."""
    start = max(text.rfind("\n", 0, match.start()), text.rfind("\r", 0, match.start())) + 1
    end = min(i for i in (text.find("\n", match.end()), len(text)) if i >= 0)
    around = max(start, match.start() - _SHOWN // 2)
    shown = text[around : min(end, around + _SHOWN)]
    clean = " ".join("".join(c if c.isprintable() else " " for c in shown).split())
    before, after = "…" if around > start else "", "…" if around + _SHOWN < end else ""
    return f"{before}{clean}{after}"


def _roots_first(causes: list[Cause]) -> list[Cause]:
    """Return the causes in order, but none before one that it follows from."""
    here = {cause.failure.name: cause for cause in causes}
    order: dict[str, Cause] = {}

    def place(cause: Cause, above: tuple[str, ...]) -> None:
        roots = [name for name in cause.failure.follows if name in here and name not in above]
        for name in sorted(roots, key=lambda name: here[name].line):
            place(here[name], (*above, cause.failure.name))
        order.setdefault(
            cause.failure.name, Cause(cause.failure, cause.line, cause.text, tuple(roots))
        )

    for cause in causes:
        place(cause, ())
    return list(order.values())


def _faults(path: Path, name: str, entry: Any, table: Mapping[str, Any]) -> list[Problem]:
    where = _place(path, name)
    if not isinstance(entry, dict):
        return [
            Problem(
                f'"{name}" must be a table',
                where,
                f"[{name}], with pattern, cause, remedy and source",
            )
        ]
    problems = [
        Problem(f'unknown key "{key}"', where, did_you_mean(key, _KEYS) or ", ".join(_KEYS))
        for key in entry
        if key not in _KEYS
    ]
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
                        f'"follows" names "{n}", which is not there',
                        where,
                        "name another table of this file, or leave it out",
                    )
                    for n in names
                    if n not in table or n == name
                ]
        elif needed and not (isinstance(value, str) and value):
            problems.append(
                Problem(f'"{key}" must be a string that says something', where, f'{key} = "…"')
            )
    return [*problems, *_pattern_faults(entry.get("pattern"), where)]


def _pattern_faults(pattern: object, where: str) -> list[Problem]:
    if not isinstance(pattern, str) or not pattern:
        return []
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        return [
            Problem(
                f'"pattern" is no regular expression: {error}',
                where,
                "write it as Python's re has it",
            )
        ]
    if re.search(r"[*+]|\{\d*,\}", _LITERALS.sub("", pattern)):
        said = '"pattern" has a part of any length (* or +)'
        return [Problem(said, where, "bound it: .{0,200}")]
    if re.search(r"\(\?(?![=!])", pattern):  # a look-ahead does not hide what must be there
        return [Problem('"pattern" has a flag or another "(?"', where, "write [Aa] for both")]
    if compiled.search(""):
        return [
            Problem(
                '"pattern" fits an empty line, hence every line',
                where,
                "write what only a line that tells of the failure has",
            )
        ]
    return []


def _place(path: Path, name: str) -> str:
    """Return ``path:line`` of a table's heading."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip() in (f"[{name}]", f'["{name}"]'):
            return f"{path}:{number}"
    return str(path)

"""The index of errors: every message that the programs' sources can say, read from them.

An error is a call of a class of :mod:`paddle_stacks.errors`, or of a ``Problem`` that such
a class carries; what a check of the doctor finds, and what the server answers, are read in
the same way. A message whose words are another program's is not in it: there is nothing
to look up.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from paddle_stacks import errors
from paddle_stacks.errors import RequestError
from paddle_stacks.explain import sources, texts
from paddle_stacks.explain.sources import Function, Module
from paddle_stacks.explain.templates import Hole, Template, words_in_common

__all__ = ["Entry", "collect", "load", "message_of", "nearest", "who_says"]

# A text with fewer letters of its own would fit nearly everything.
_LEAST_LETTERS = 4
_CLASSES = {"StackError", "RequestError", "MachineError", "BuildError", "JobError"}
_FINDINGS = {"error": "3", "warning": "0", "hint": "0"}
_FAMILY = "paddle_stacks/errors.py"
_STOPPED = "128+n"
_SIGNAL = (
    "it was told to stop, by a person or by the system; most jobs go on where they were when "
    "the same command is given again"
)
_PREFIX = re.compile(r"^\s*(?:\x1b\[[\d;]*m)*error:(?:\x1b\[[\d;]*m)*\s*")
_ANSI = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True)
class Entry:
    """One message.

    Args:
        what: the fault, with holes for what is known only then.
        remedies: what to do about it; several where it depends.
        status: the exit status, ``2`` or ``2 or 3``; ``HTTP 400`` for the server's answers.
        kind: ``error``, ``finding`` of the doctor, or ``answer`` of the server.
        path: the file that says it.
        line: the first line that does.
        about: what that file is for.
    """

    what: Template
    remedies: tuple[Template, ...]
    status: str
    kind: str
    path: str
    line: int
    about: str


@cache
def load(root: Path) -> tuple[Entry, ...]:
    """Return the index of a checkout, by folders, files and messages."""
    return collect(sources.load(root), (root / "inv").read_text(encoding="utf-8"))


def collect(
    modules: Iterable[Module], wrapper: str = "", *, least: int = _LEAST_LETTERS
) -> tuple[Entry, ...]:
    """Return what the modules, and the shell script ``inv``, can say; each once for a file.

    Args:
        modules: the programs.
        wrapper: the text of the shell script.
        least: how many letters of its own a message has; with fewer it cannot be found again.
    """
    modules = tuple(modules)
    family = _family(modules)
    found: dict[tuple[str, str], Entry] = {}
    for entry in (
        *(entry for module in modules for entry in _entries(module, modules, family)),
        *_of_wrapper(wrapper),
    ):
        if entry.what.letters < least:
            continue
        key = (entry.path, str(entry.what))
        known = found.get(key)
        found[key] = _merged(known, entry) if known else entry
    return tuple(sorted(found.values(), key=_order))


def _order(entry: Entry) -> tuple[str, str, str]:
    folder, _, name = entry.path.rpartition("/")
    return folder, name, str(entry.what).lower()


def message_of(text: str) -> str:
    """Return the message in what a person pastes: without ``error:``, colours, at and fix."""
    lines = _ANSI.sub("", text).strip().splitlines()
    begins = next((i for i, line in enumerate(lines) if _PREFIX.match(line)), 0)
    kept: list[str] = []
    for line in lines[begins:]:
        if kept and re.match(r"^\s*(at|fix|error):", line):
            break
        kept.append(_PREFIX.sub("", line))
    return "\n".join(kept).strip()


def who_says(message: str, index: Iterable[Entry]) -> list[Entry]:
    """Return what a message can have come from, the closest first; [] for none.

    Args:
        message: the whole message, as :func:`message_of` returns it.
        index: where to look.
    """
    fitting = [entry for entry in index if entry.what.fits(message)]
    if not fitting:
        return []
    best = max(entry.what.letters for entry in fitting)
    return [entry for entry in fitting if entry.what.letters == best]


def nearest(message: str, index: Iterable[Entry], count: int = 3) -> list[Entry]:
    """Return what a message resembles: at least half of the words are the same."""
    rated = [(words_in_common(entry.what, message), entry) for entry in index]
    rated = [pair for pair in rated if pair[0] >= 0.5]
    rated.sort(key=lambda pair: -pair[0])
    return [entry for _, entry in rated[:count]]


# ------------------------------------------------------------------ reading


def _family(modules: Iterable[Module]) -> dict[str, str]:
    """Return the exit status of each class of errors, of those that jobs derive too."""
    known = {name: str(getattr(errors, name).status) for name in _CLASSES}
    for module in modules:
        for name, made in module.classes.items():
            bases = {base.id for base in made.bases if isinstance(base, ast.Name)}
            if bases & _CLASSES and name != "Stopped":
                known.setdefault(name, known[(bases & _CLASSES).pop()])
    return known


def _entries(
    module: Module, modules: tuple[Module, ...], family: dict[str, str]
) -> Iterator[Entry]:
    if module.path == _FAMILY:
        yield from _of_signals(module)
        return
    for name, status in family.items():
        for call in module.calls.get(name, []):
            yield from _said(module, call, _word(call, 0, "problems"), status, "error")
    for call in module.calls.get("Problem", []):
        status = _status_around(module, call, modules, family)
        yield from _said(module, call, _word(call, 0, "what"), status, "error")
    for call in module.calls.get("Stopped", []):
        for entry in _said(module, call, _word(call, 1, "what"), _STOPPED, "error"):
            yield replace(entry, remedies=(Template((_SIGNAL,)),))
    for call in module.calls.get("ApiError", []):
        status = ast.unparse(call.args[0]) if call.args else ""
        if status.isdigit():
            yield from _said(module, call, _word(call, 1, "message"), f"HTTP {status}", "answer")
    if module.path.startswith("paddle_stacks/doctor/"):
        for name, status in _FINDINGS.items():
            for call in module.calls.get(name, []):
                yield from _said(module, call, _word(call, 0, "saw"), status, "finding")


def _of_signals(module: Module) -> Iterator[Entry]:
    """Yield what ``Stopped`` says where nothing else is said."""
    for node in ast.walk(module.classes["Stopped"]):
        if isinstance(node, ast.JoinedStr):
            for text, _ in texts.pairs(node, None, texts.Scope(module, node)):
                fix = (Template((_SIGNAL,)),)
                yield Entry(text, fix, _STOPPED, "error", module.path, node.lineno, module.about)


def _said(
    module: Module, call: ast.Call, what: ast.expr | None, status: str, kind: str
) -> Iterator[Entry]:
    if what is None:
        return
    at = 1 if kind == "finding" else 2
    remedy = _word(call, at, "remedy")
    for text, fixes in texts.pairs(what, remedy, texts.Scope(module, call)):
        # Problems that an error carries, and no text.
        carried = not text.letters and len(call.args) == 1 and not call.keywords
        if not carried:
            yield Entry(text, fixes, status, kind, module.path, call.lineno, module.about)


def _word(call: ast.Call, position: int, name: str) -> ast.expr | None:
    """Return an argument of a call, by its name or its position."""
    named = next((word.value for word in call.keywords if word.arg == name), None)
    if named is not None:
        return named
    return call.args[position] if len(call.args) > position else None


def _merged(one: Entry, other: Entry) -> Entry:
    statuses = dict.fromkeys([*one.status.split(" or "), *other.status.split(" or ")])
    remedies = tuple(dict.fromkeys([*one.remedies, *other.remedies]))
    line = min(one.line, other.line)
    return replace(one, status=" or ".join(sorted(statuses)), remedies=remedies, line=line)


def _status_around(
    module: Module, problem: ast.Call, modules: tuple[Module, ...], family: dict[str, str]
) -> str:
    """Return the status of the errors that carry a problem: those nearest up the calls."""
    for node in module.above(problem):
        if isinstance(node, ast.Call) and sources.called(node) in family:
            return family[sources.called(node)]
    front = [(module, module.function_of(problem))]
    seen: set[Function] = set()
    while front:
        statuses = {status for where, function in front for status in _raised(function, family)}
        if statuses:
            return " or ".join(sorted(statuses))
        seen |= {function for _, function in front if function}
        front = [
            (where, caller)
            for one, function in front
            if function
            for where, caller in _callers(one, function, modules)
            if caller not in seen
        ]
    # Carried far away, as what is wrong with a document is: all that are known are requests.
    return str(RequestError.status)


def _raised(function: Function | None, family: dict[str, str]) -> set[str]:
    """Return the statuses of the errors that a function makes of problems it has."""
    if function is None:
        return set()
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and sources.called(node) in family and node.args:
            carried = node.args[0]
            text = isinstance(carried, (ast.Constant, ast.JoinedStr))
            if not text and len(node.args) == 1 and not node.keywords:
                found.add(family[sources.called(node)])
    return found


def _callers(
    module: Module, function: Function, modules: tuple[Module, ...]
) -> list[tuple[Module, Function | None]]:
    """Return the functions that call one, or hand it on; of its own module if there are any."""
    for places in ((module,), modules):
        found = [
            (place, place.function_of(node))
            for place in places
            for node in place.mentions.get(function.name, [])
        ]
        found = [(place, caller) for place, caller in found if caller not in (None, function)]
        if found:
            return found
    return []


def _of_wrapper(script: str) -> Iterator[Entry]:
    """Yield what ``fail 'what' 'remedy'`` says in the shell script."""
    about = "the wrapper that makes the environment of the tasks on first use"
    for match in re.finditer(r'\bfail\s+"([^"]+)"\s*(?:\\\n\s*)?"([^"]+)"', script):
        line = script.count("\n", 0, match.start()) + 1
        what, remedy = (_of_shell(text) for text in match.groups())
        yield Entry(what, (remedy,), "3", "error", "inv", line, about)


def _of_shell(text: str) -> Template:
    pieces = re.split(r"\$\{?(\w+)\}?", text)
    parts = (Hole(piece) if i % 2 else piece for i, piece in enumerate(pieces))
    return Template(tuple(part for part in parts if part))

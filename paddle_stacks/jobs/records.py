"""Training data: folders of ``train.json`` and ``dev.json``, one JSON object a line.

A record is what upstream documents: ``{"src": …, "tgt": …}``, each a string, or
each a list of as many strings, which are the turns of a conversation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from paddle_stacks.errors import Problem, RequestError, did_you_mean

__all__ = ["LONGEST_LINE", "SHOWN", "Counts", "Record", "check", "files", "fingerprint", "read"]

LONGEST_LINE = 16 * 1024 * 1024  # bytes
SHOWN = 20  # bad lines that are shown; the rest is counted
_SURROGATE = re.compile("[\ud800-\udfff]")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Record:
    """One conversation.

    Args:
        where: ``file:line``.
        src: what the user says, one string a turn.
        tgt: what the model shall answer, one string a turn.
        context: what else upstream hands to the chat template.
    """

    where: str
    src: tuple[str, ...]
    tgt: tuple[str, ...]
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """How many records a data folder holds.

    Args:
        train: records to learn from.
        dev: records to evaluate on.
    """

    train: int
    dev: int


class _BadLine(ValueError):
    """Why a line is not a record."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def files(folder: Path, split: str) -> tuple[Path, ...]:
    """Return the files of a split: ``train.json``, or the ``*.json`` in ``train/``.

    Raises:
        RequestError: there are none.
    """
    if (folder / f"{split}.json").is_file():
        return (folder / f"{split}.json",)
    found = tuple(sorted((folder / split).glob("*.json")))
    if found:
        return found
    if not folder.is_dir():
        near = did_you_mean(folder.name, _neighbours(folder))
        raise RequestError(
            "there is no such data folder",
            where=str(folder),
            remedy=near or "--set dataset_name_or_path=FOLDER; paths start in the workspace",
        )
    raise RequestError(
        f"the data folder has no {split}.json",
        where=str(folder),
        remedy='write one JSON object a line: {"src": "a question", "tgt": "its answer"}',
    )


def check(folder: Path, *, dev: bool = True, train: str = "train") -> Counts:
    """Check every line of the training data, and of the evaluation data.

    Reads line by line and keeps nothing, so the size of the data does not matter.

    Args:
        folder: the data folder.
        dev: whether evaluation data is needed.
        train: the split to learn from.

    Raises:
        RequestError: with a problem for each of the first 20 bad lines, and how
            many there are.
    """
    faults = _Faults()
    counts = dict.fromkeys((train, "dev"), 0)
    for split in (train, "dev") if dev else (train,):
        try:
            paths = files(folder, split)
        except RequestError as error:
            faults.problems += error.problems
            if not folder.is_dir():
                break
            continue
        before = faults.count
        for path in paths:
            counts[split] += _count(path, faults)
        if counts[split] == 0 and faults.count == before:
            faults.problems.append(Problem("there is no record in it", str(paths[0]), _FORMAT))
    faults.raise_if_any()
    return Counts(counts[train], counts["dev"])


def read(folder: Path, split: str) -> Iterator[Record]:
    """Yield the records of a split that :func:`check` found right.

    Raises:
        RequestError: a line is not a record.
    """
    for path in files(folder, split):
        for number, line in _lines(path):
            try:
                yield _record(line, f"{path}:{number}")
            except _BadLine as bad:
                raise RequestError(
                    bad.reason, where=f"{path}:{number}", remedy=bad.remedy or _FORMAT
                ) from None


def fingerprint(folder: Path, split: str) -> str:
    """Return the SHA-256 of a split's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for path in files(folder, split):
        with path.open("rb") as stream:
            while chunk := stream.read(1024 * 1024):
                digest.update(chunk)
    return digest.hexdigest()


_FORMAT = 'one JSON object a line: {"src": "a question", "tgt": "its answer"}'


class _Faults:
    """The first bad lines, and how many there are."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.count = 0

    def add(self, path: Path, number: int, bad: _BadLine) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.problems.append(Problem(bad.reason, f"{path}:{number}", bad.remedy or _FORMAT))

    def raise_if_any(self) -> None:
        if self.count > SHOWN:
            self.problems.append(
                Problem(
                    f"{self.count} bad lines; the first {SHOWN} are above",
                    remedy="mend those above first",
                )
            )
        if self.problems:
            raise RequestError(self.problems)


def _count(path: Path, faults: _Faults) -> int:
    good = 0
    try:
        for number, line in _lines(path):
            try:
                _record(line, "")
                good += 1
            except _BadLine as bad:
                faults.add(path, number, bad)
    except _BadLine as bad:  # the file as a whole
        faults.add(path, 1, bad)
    except OSError as error:
        faults.problems.append(
            Problem(
                f"the data cannot be read: {error.strerror}",
                str(path),
                "chmod u+r it, or copy it anew",
            )
        )
    return good


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of every line that is not blank, the long ones cut."""
    with path.open("rb") as stream:
        start = stream.read(len(_BOM))
        if start == _BOM:
            raise _BadLine("begins with a byte order mark", "save it as UTF-8 without one")
        stream.seek(0)
        number = 0
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            rest = line
            while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
                rest = stream.readline(LONGEST_LINE + 1)
            if line.strip():
                yield number, line


def _record(line: bytes, where: str) -> Record:
    entry = _entry(line)
    missing = [name for name in ("src", "tgt") if name not in entry]
    if missing:
        names = " and ".join(f'"{name}"' for name in missing)
        hint = did_you_mean(missing[0], entry)
        raise _BadLine(f"has no {names}", hint or _FORMAT)
    src, tgt = _turns(entry, "src"), _turns(entry, "tgt")
    if isinstance(entry["src"], list) is not isinstance(entry["tgt"], list):
        raise _BadLine('"src" and "tgt" must both be strings, or both be lists')
    if len(src) != len(tgt):
        raise _BadLine(
            f'"src" has {len(src)} turns and "tgt" has {len(tgt)}', "every turn needs an answer"
        )
    empty = [index for index, text in enumerate(tgt, start=1) if not text.strip()]
    if empty:
        turn = f" in turn {empty[0]}" if len(tgt) > 1 else ""
        raise _BadLine(f'"tgt" is empty{turn}: there is nothing to learn')
    context = entry.get("context", {})
    if not isinstance(context, dict):
        raise _BadLine('"context" must be an object')
    return Record(where, src, tgt, context)


def _entry(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise _BadLine(f"the line is longer than {LONGEST_LINE // 1024**2} MiB")
    if b"\0" in line:
        raise _BadLine("contains a null byte")
    try:
        entry = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _BadLine(f"not UTF-8: byte 0x{line[error.start]:02x}", "save it as UTF-8") from None
    except json.JSONDecodeError as error:
        _not_json(line, error)
    except RecursionError:
        raise _BadLine("nested too deeply") from None
    except ValueError:
        raise _BadLine("a number of more digits than can be read") from None
    if not isinstance(entry, dict):
        raise _BadLine("not a JSON object", _FORMAT)
    return entry


def _not_json(line: bytes, error: json.JSONDecodeError) -> NoReturn:
    start = line.strip()[:1]
    if start == b"[" or (start == b"{" and len(line.strip()) == 1):
        raise _BadLine("not a JSON object", "no list around the records, and a record on one line")
    raise _BadLine(f"not JSON: {error.msg} (column {error.colno})") from None


def _turns(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = entry[name]
    turns = value if isinstance(value, list) else [value]
    if not turns or not all(isinstance(turn, str) for turn in turns):
        raise _BadLine(f'"{name}" must be a string, or a list of strings')
    for turn in turns:
        if _SURROGATE.search(turn):
            raise _BadLine(f'"{name}" holds half of a surrogate pair, which is no character')
    return tuple(turns)


def _neighbours(folder: Path) -> list[str]:
    parent = folder.parent
    return [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []

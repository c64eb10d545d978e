"""Training data: folders of ``train.json`` and ``dev.json``.

A file has one JSON object a line, or is one JSON array. :mod:`.record_formats` says what a
record is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs import json_arrays
from paddle_stacks.jobs.fault_report import FaultReport
from paddle_stacks.jobs.files import sha256_of
from paddle_stacks.jobs.record_formats import FORMAT, conversation

__all__ = ["LONGEST_LINE", "Counts", "Record", "check", "files", "fingerprint", "read"]

LONGEST_LINE = 16 * 1024 * 1024  # bytes
_BOM = b"\xef\xbb\xbf"
_SUFFIXES = (".json", ".jsonl")
# Data in a format that is not read, and would be left out.
_UNREAD_SUFFIXES = {".arrow", ".bz2", ".csv", ".gz", ".parquet", ".tsv", ".xlsx", ".xz", ".zst"}


@dataclass(frozen=True)
class Record:
    """One conversation.

    Args:
        where: ``file:line``.
        src: what the user says, one string a turn.
        tgt: what the model is to answer, one string a turn.
        context: what else upstream hands to the chat template.
        system: the system message, or None.
    """

    where: str
    src: tuple[str, ...]
    tgt: tuple[str, ...]
    context: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None


@dataclass(frozen=True)
class Counts:
    """How many records a data folder holds.

    Args:
        train: records to learn from.
        dev: records to evaluate on.
        ignored: keys without an effect, and how many records have them.
    """

    train: int
    dev: int
    ignored: Mapping[str, int] = field(default_factory=dict, compare=False)


def files(folder: Path, split: str, *, upstream: bool = False) -> tuple[Path, ...]:
    """Return the files of a split: ``train.json``, ``train.jsonl``, or those in ``train/``.

    Args:
        folder: the data folder.
        split: ``train``, ``dev`` or ``quant``.
        upstream: whether PaddleNLP's own program reads them, which knows ``*.json`` only.

    Raises:
        RequestError: there are none, or it is not clear which ones are meant.
    """
    if not folder.is_dir():
        near = did_you_mean(folder.name, _neighbours(folder))
        raise RequestError(
            "the data folder does not exist",
            where=str(folder),
            remedy=near or "--set dataset_name_or_path=FOLDER; paths start in the workspace",
        )
    single = [folder / f"{split}{suffix}" for suffix in _SUFFIXES]
    single = [path for path in single if path.is_file()]
    inside = sorted(path for path in (folder / split).glob("*") if path.is_file())
    several = [path for path in inside if path.suffix in _SUFFIXES]
    if len(single) > 1 or (single and several):
        names = [path.name for path in single] + ([f"{split}/"] if several else [])
        raise RequestError(
            f"{' and '.join(names)} are both there: it is not clear which one is meant",
            where=str(folder),
            remedy=f"keep one of them, or move all files into {split}/",
        )
    unread = [path for path in inside if path.suffix in _UNREAD_SUFFIXES]
    if upstream:
        unread += [path for path in (*single, *several) if path.suffix != ".json"]
    if unread:
        readable = "*.json" if upstream else "*.json and *.jsonl"
        raise RequestError(
            f"{unread[0].name} would not be read: only {readable} are",
            where=str(unread[0]),
            remedy="convert it, or move it out of the data folder",
        )
    if single or several:
        return tuple(single or several)
    raise RequestError(
        f"the data folder has no {split}.json or {split}.jsonl",
        where=str(folder),
        remedy=FORMAT,
    )


def check(
    folder: Path, *, dev: bool = True, train: str = "train", upstream: bool = False
) -> Counts:
    """Check every record of the training data, and of the evaluation data.

    Reads record by record and keeps nothing, so the size of the data does not matter.

    Args:
        folder: the data folder.
        dev: whether evaluation data is needed.
        train: the split to learn from.
        upstream: whether PaddleNLP's own program reads it.

    Raises:
        RequestError: with a problem for each of the first 20 kinds of faults, with its
            places, and how many others there are.
    """
    problems: list[Problem] = []
    faults = FaultReport()
    counts = dict.fromkeys((train, "dev"), 0)
    ignored: Counter[str] = Counter()
    for split in (train, "dev") if dev else (train,):
        try:
            paths = files(folder, split, upstream=upstream)
        except RequestError as error:
            problems += error.problems
            if not folder.is_dir():
                break
            continue
        known = len(problems) + faults.count
        for path in paths:
            try:
                counts[split] += _count(path, faults, ignored, upstream=upstream)
            except OSError as error:
                what = f"the data cannot be read: {error.strerror}"
                problems.append(Problem(what, str(path), f"chmod u+r {path}, or copy it again"))
        if counts[split] == 0 and len(problems) + faults.count == known:
            problems.append(Problem("the file contains no record", str(paths[0]), FORMAT))
    problems = [*faults.problems("bad records"), *problems]
    if problems:
        raise RequestError(problems)
    return Counts(counts[train], counts["dev"], dict(ignored))


def read(folder: Path, split: str) -> Iterator[Record]:
    """Yield the records of a split that :func:`check` accepted.

    Raises:
        RequestError: an entry is not a record.
    """
    for path in files(folder, split):
        for place, entry in _entries(path):
            try:
                if isinstance(entry, RequestError):
                    raise entry
                parsed = conversation(entry)
            except RequestError as error:
                problem = replace(error.problems[0], where=f"{path}:{place}")
                raise RequestError(problem) from None
            yield Record(f"{path}:{place}", parsed.src, parsed.tgt, parsed.context, parsed.system)


def fingerprint(folder: Path, split: str) -> str:
    """Return the SHA-256 of a split's bytes, in hexadecimal."""
    return sha256_of(*files(folder, split))


def _count(path: Path, faults: FaultReport, ignored: Counter[str], *, upstream: bool) -> int:
    good = 0
    for place, entry in _entries(path, arrays=not upstream):
        try:
            if isinstance(entry, RequestError):
                raise entry
            ignored.update(conversation(entry, upstream=upstream).ignored)
            good += 1
        except RequestError as error:
            faults.add(replace(error.problems[0], where=str(path)), place)
    return good


def _entries(path: Path, *, arrays: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield the place and the value of every entry; a :class:`RequestError` where there is none."""
    with path.open("rb") as stream:
        head = stream.read(65536)
        if head.startswith(_BOM):
            yield (
                "1",
                RequestError(
                    "begins with a byte order mark", remedy="save it as UTF-8 without one"
                ),
            )
            return
        stream.seek(0)
        if not json_arrays.starts_array(head):
            for number, line in _lines(path):
                try:
                    yield str(number), _value(line)
                except RequestError as error:
                    yield str(number), error
        elif arrays:
            try:
                elements = enumerate(json_arrays.values(stream, LONGEST_LINE), 1)
                for index, (number, value) in elements:
                    yield f"{number} (record {index})", value
            except json_arrays.ArrayError as error:
                yield (
                    str(error.line),
                    RequestError(error.reason, remedy="write the array as valid JSON"),
                )
        else:
            remedy = "write one JSON object a line: jq -c '.[]' FILE"
            yield (
                "1",
                RequestError("PaddleNLP's own program does not read a JSON array", remedy=remedy),
            )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of every line that is not blank, the long ones cut."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            rest = line
            while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
                rest = stream.readline(LONGEST_LINE + 1)
            if line.strip():
                yield number, line


def _value(line: bytes) -> Any:
    """Return the JSON value of a line."""
    if len(line) > LONGEST_LINE:
        raise RequestError(f"the line is longer than {LONGEST_LINE // 1024**2} MiB", remedy=FORMAT)
    if b"\0" in line:
        raise RequestError("contains a null byte", remedy=FORMAT)
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(
            f"not UTF-8: byte 0x{line[error.start]:02x}", remedy="save it as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        _not_json(line, error)
    except RecursionError:
        raise RequestError("nested too deeply", remedy=FORMAT) from None
    except ValueError:
        raise RequestError("a number has too many digits", remedy=FORMAT) from None


def _not_json(line: bytes, error: json.JSONDecodeError) -> NoReturn:
    text = line.strip()
    if text[:1] == b"[" or text == b"{":
        reason = "not a JSON object: a record must be on one line"
        raise RequestError(reason, remedy="jq -c . FILE writes one record a line") from None
    raise RequestError(f"not JSON: {error.msg} (column {error.colno})", remedy=FORMAT) from None


def _neighbours(folder: Path) -> list[str]:
    parent = folder.parent
    return [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []

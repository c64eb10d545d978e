"""Records of training data: checked as a whole, read one by one.

:mod:`.datasets` finds the files, :mod:`.data_files` reads them, and :mod:`.record_formats`
says what a record is.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import data_files, datasets
from paddle_stacks.jobs.data_files import LONGEST_LINE
from paddle_stacks.jobs.datasets import Dataset, Source, files
from paddle_stacks.jobs.fault_report import FaultReport
from paddle_stacks.jobs.files import sha256_of
from paddle_stacks.jobs.record_formats import FORMAT, Conversation, conversation

__all__ = ["LONGEST_LINE", "Counts", "Record", "check", "files", "fingerprint", "paths_of", "read"]


@dataclass(frozen=True)
class Record:
    """One conversation.

    Args:
        where: ``file:line``.
        src: what the user says, one string a turn.
        tgt: what the model is to answer, one string a turn.
        context: what else upstream hands to the chat template.
        system: the system message, or None.
        format: a key of :data:`.record_formats.FORMAT_NAMES`.
    """

    where: str
    src: tuple[str, ...]
    tgt: tuple[str, ...]
    context: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    format: str = "src"


@dataclass(frozen=True)
class Counts:
    """The numbers of records in a data set.

    Args:
        train: records to learn from, in an epoch.
        dev: records to evaluate on.
        ignored: keys without an effect, and how many records have them.
        held_out: sources of which some records are held out, and how many; in the order of
            the sources.
        shares: of several sources, the records in an epoch and the records there are.
    """

    train: int
    dev: int
    ignored: Mapping[str, int] = field(default_factory=dict, compare=False)
    held_out: Mapping[str, int] = field(default_factory=dict, compare=False)
    shares: Mapping[str, tuple[int, int]] = field(default_factory=dict, compare=False)

    def notes(self, seed: int) -> list[str]:
        """Return what a person should know about the data set.

        Args:
            seed: the data set's.
        """
        lines = [
            f"{path} has no data for evaluation: {count} of its records are held out "
            f"(dev_ratio, seed {seed})"
            for path, count in self.held_out.items()
        ]
        lines += [
            f"{path}: {share} records per epoch, of {count}"
            for path, (share, count) in self.shares.items()
        ]
        return lines + [
            f'the key "{key}" of {count} records has no effect'
            for key, count in self.ignored.items()
        ]


class _Checker:
    """The state of one check: faults of all files, and what was counted."""

    def __init__(self, dataset: Dataset, *, upstream: bool) -> None:
        self.problems: list[Problem] = []
        self.faults = FaultReport()
        self.ignored: Counter[str] = Counter()
        self._dataset = dataset
        self._upstream = upstream

    def count(self, source: Source, split: str, keys: array[int] | None = None) -> int:
        """Return the number of good records of a split.

        Args:
            source: whose.
            split: which.
            keys: gets the key of each record for :func:`.datasets.holdout_limit`.
        """
        try:
            paths = files(source.path, split, upstream=self._upstream)
        except RequestError as error:
            self.problems += error.problems
            return 0
        if not all(map(data_files.is_readable, paths)):
            return 0  # by the host; the job in its container reads it
        before = len(self.problems) + self.faults.count
        good = 0
        for path in paths:
            try:
                good += self._count_file(path, keys)
            except OSError as error:
                reason = f"the data cannot be read: {error.strerror}"
                remedy = f"chmod u+r {path}, or copy it again"
                self.problems.append(Problem(reason, str(path), remedy))
        if good == 0 and len(self.problems) + self.faults.count == before:
            self.problems.append(Problem("the file contains no record", str(paths[0]), FORMAT))
        return good

    def _count_file(self, path: Path, keys: array[int] | None) -> int:
        good = 0
        for place, parsed in _parsed(path, self._dataset, upstream=self._upstream):
            if isinstance(parsed, RequestError):
                self.faults.add(replace(parsed.problems[0], where=str(path)), place)
                continue
            self.ignored.update(parsed.ignored)
            if keys is not None:
                keys.append(datasets.holdout_key(parsed, self._dataset.seed))
            good += 1
        return good


def check(
    data: Path | Dataset, *, dev: bool = True, train: str = "train", upstream: bool = False
) -> Counts:
    """Check every record of the training data, and of the evaluation data.

    Reads record by record and keeps nothing but eight bytes for each record that may be held
    out, so the size of the data does not matter.

    Args:
        data: the data set.
        dev: whether evaluation data is needed.
        train: the split to learn from.
        upstream: whether PaddleNLP's own program reads it.

    Raises:
        RequestError: with a problem for each of the first 20 kinds of faults, with its
            places, and how many others there are.
    """
    dataset = Dataset.of(data)
    checker = _Checker(dataset, upstream=upstream)
    held_out: dict[str, int] = {}
    trains: list[int] = []
    devs = 0
    for source in dataset.sources:
        if not source.path.exists():
            checker.count(source, train)  # reports it, once
            continue
        try:
            splits = dev and train == "train" and not upstream and _is_split(dataset, source)
        except RequestError as error:
            checker.problems += error.problems
            continue
        keys = array("Q") if splits else None
        count = checker.count(source, train, keys)
        if keys:
            try:
                limit = datasets.holdout_limit(keys, dataset.dev_ratio, source.path)
            except RequestError as error:
                checker.problems += error.problems
            else:
                held_out[str(source.path)] = sum(key <= limit for key in keys)
                count -= held_out[str(source.path)]
                devs += held_out[str(source.path)]
        elif dev and not splits:
            devs += checker.count(source, "dev")
        trains.append(count)
    problems = [*checker.faults.problems("bad records"), *checker.problems]
    if problems:
        raise RequestError(problems)
    shares = {}
    if len(dataset.sources) > 1:
        parts = dataset.shares(trains)
        names = [str(source.path) for source in dataset.sources]
        shares = dict(zip(names, zip(parts, trains, strict=True), strict=True))
        trains = list(parts)
    return Counts(sum(trains), devs, dict(checker.ignored), held_out, shares)


def read(data: Path | Dataset, split: str) -> Iterator[Record]:
    """Yield the records of a split that :func:`check` accepted.

    Of several sources with weights, an epoch's records for training are yielded: of a source
    with fewer records than its share all, repeatedly, and a random part of the last time.

    Raises:
        RequestError: an entry is not a record.
    """
    dataset = Dataset.of(data)
    if len(dataset.sources) == 1 or split != "train":
        for source in dataset.sources:
            yield from _source_records(dataset, source, split)
        return
    counts = [sum(1 for _ in _source_records(dataset, source, split)) for source in dataset.sources]
    shares = dataset.shares(counts)
    for number, source in enumerate(dataset.sources):
        if not counts[number]:
            continue
        whole, rest = divmod(shares[number], counts[number])
        for _ in range(whole):
            yield from _source_records(dataset, source, split)
        pick = random.Random(f"{dataset.seed} {number}")
        chosen = set(pick.sample(range(counts[number]), rest))
        for index, record in enumerate(_source_records(dataset, source, split)):
            if index in chosen:
                yield record


def fingerprint(data: Path | Dataset, split: str) -> str:
    """Return the SHA-256 of the files with a split's records, in hexadecimal."""
    return sha256_of(*paths_of(Dataset.of(data), split))


def paths_of(dataset: Dataset, split: str) -> tuple[Path, ...]:
    """Return the files with a split's records, which may have those of another one too."""
    held_out = split == "dev"
    paths = [
        files(source.path, "train" if held_out and _is_split(dataset, source) else split)
        for source in dataset.sources
    ]
    return tuple(chain.from_iterable(paths))


def _is_split(dataset: Dataset, source: Source) -> bool:
    """Return whether some of a source's records are held out, because it has no others."""
    return dataset.dev_ratio > 0 and not datasets.has_files(source.path, "dev")


def _source_records(dataset: Dataset, source: Source, split: str) -> Iterator[Record]:
    if split not in ("train", "dev") or not _is_split(dataset, source):
        for record, _ in _file_records(dataset, files(source.path, split)):
            yield record
        return
    paths = files(source.path, "train")
    keys = array("Q", (key for _, key in _file_records(dataset, paths)))
    if not keys:
        return
    limit = datasets.holdout_limit(keys, dataset.dev_ratio, source.path)
    for record, key in _file_records(dataset, paths):
        if (key <= limit) is (split == "dev"):
            yield record


def _file_records(dataset: Dataset, paths: tuple[Path, ...]) -> Iterator[tuple[Record, int]]:
    """Yield each record, and its key for :func:`.datasets.holdout_limit`."""
    for path in paths:
        for place, parsed in _parsed(path, dataset):
            where = f"{path}:{place}"
            if isinstance(parsed, RequestError):
                raise RequestError(replace(parsed.problems[0], where=where))
            record = Record(
                where, parsed.src, parsed.tgt, parsed.context, parsed.system, parsed.format
            )
            yield record, datasets.holdout_key(parsed, dataset.seed)


def _parsed(
    path: Path, dataset: Dataset, *, upstream: bool = False
) -> Iterator[tuple[str, Conversation | RequestError]]:
    """Yield the place of each entry, and its conversation or why it is none."""
    for place, entry in data_files.entries(path, arrays=not upstream):
        if isinstance(entry, RequestError):
            yield place, entry
            continue
        try:
            yield place, conversation(entry, upstream=upstream, columns=dataset.columns)
        except RequestError as error:
            yield place, error

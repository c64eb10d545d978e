"""The report of a data set: formats, counts, lengths, duplicates and samples."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import groupby
from typing import Any

import numpy as np

from entrypoints.training.data import IGNORED, Encoder, Example
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import records
from paddle_stacks.jobs.data_files import format_of
from paddle_stacks.jobs.datasets import Dataset
from paddle_stacks.jobs.fault_report import FaultReport
from paddle_stacks.jobs.record_formats import FORMAT_NAMES
from paddle_stacks.jobs.records import Counts, Record

__all__ = ["Encoders", "Summary", "lines", "samples", "summarize"]

_BAR = 40  # characters of the longest bar
_LEARNED = "⟦", "⟧"
_LONGEST_SAMPLE = 2000  # characters


@dataclass(frozen=True)
class Encoders:
    """A model's view of records.

    Args:
        tokenizer: the model's.
        whole: encodes without a limit.
        cut: encodes with the limits of the configuration.
        src_length: limit of a question, in tokens.
        max_length: limit of a conversation, in tokens.
    """

    tokenizer: Any
    whole: Encoder
    cut: Encoder
    src_length: int
    max_length: int


@dataclass
class Summary:
    """Statistics of a split.

    Args:
        formats: records by their format.
        turns: answers in all records.
        systems: records with a system message.
        lengths: of each record, in tokens, or in characters without a model.
        learned: tokens or characters in answers.
        shortened: records that the limits cut.
        keys: one of each record's texts; equal records have equal ones.
        questions: one of each record's texts without the last answer.
    """

    formats: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    systems: int = 0
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    learned: int = 0
    shortened: int = 0
    keys: array[int] = field(default_factory=lambda: array("Q"))
    questions: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, record: Record, length: int, learned: int) -> None:
        """Add a record."""
        self.formats[record.format] += 1
        self.turns += len(record.tgt)
        self.systems += record.system is not None or bool(record.context.get("system"))
        self.lengths.append(length)
        self.learned += learned
        texts = (record.system or "", *record.src, *record.tgt)
        self.keys.append(_key(texts))
        self.questions.append(_key(texts[: -len(record.tgt)] + record.tgt[:-1]))


def _key(texts: Sequence[str]) -> int:
    digest = blake2b("\0".join(texts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def summarize(dataset: Dataset, split: str, encoders: Encoders | None) -> Summary:
    """Return the statistics of a split.

    Args:
        dataset: checked before.
        split: ``train`` or ``dev``.
        encoders: of a model, to count tokens; None to count characters.

    Raises:
        RequestError: the model's chat template cannot express records.
    """
    summary, faults = Summary(), FaultReport()
    for record in records.read(dataset, split):
        if encoders is None:
            learned = sum(map(len, record.tgt))
            rest = sum(map(len, (record.system or "", *record.src)))
            summary.add(record, learned + rest, learned)
            continue
        try:
            example, _ = encoders.whole.encode(record)
            length = len(example.input_ids) + 1
            if length > min(encoders.src_length, encoders.max_length):
                summary.shortened += encoders.cut.encode(record)[1]
        except RequestError as error:
            path, _, place = record.where.rpartition(":")
            for problem in error.problems:
                faults.add(replace(problem, where=path), place)
            continue
        summary.add(record, length, sum(label != IGNORED for label in example.labels))
    if faults.count:
        raise RequestError(faults.problems("records"))
    return summary


def lines(
    name: str, dataset: Dataset, counts: Counts, summaries: Mapping[str, Summary]
) -> Iterator[str]:
    """Yield the lines of the report, without the samples.

    Args:
        name: the data set's, as a person named it.
        dataset: the data set.
        counts: of its check.
        summaries: of ``train`` and, if it is evaluated, of ``dev``.
    """
    yield name
    shown = {}
    for split, summary in summaries.items():
        paths = records.paths_of(dataset, split)
        files = Counter(format_of(path) for path in paths)
        kinds = ", ".join(
            f"{kind} ({count} files)" if count > 1 else kind for kind, count in files.items()
        )
        formats = ", ".join(
            FORMAT_NAMES[key] + (f" {count:,}" if len(summary.formats) > 1 else "")
            for key, count in summary.formats.most_common()
        )
        shown[split] = f"{kinds}: {formats}"
    for split, text in shown.items():
        yield f"  {split:<11}{text}" if len(set(shown.values())) > 1 else f"  {'format':<11}{text}"
        if len(set(shown.values())) == 1:
            break
    if dataset.columns:
        roles = zip(("question", "answer", "system"), dataset.columns, strict=False)
        yield f"  {'columns':<11}" + ", ".join(f"{column} ({role})" for role, column in roles)
    for split, summary in summaries.items():
        yield f"  {split:<11}{_counts(summary)}"
    for text in counts.notes(dataset.seed):
        yield f"  {'note':<11}{text}"
    yield f"  {'duplicates':<11}{_duplicates(summaries)}"
    if "dev" in summaries:
        yield f"  {'overlap':<11}{_overlap(summaries['train'], summaries['dev'])}"


def _counts(summary: Summary) -> str:
    parts = [f"{len(summary.keys):,} records"]
    if summary.turns != len(summary.keys):
        parts.append(f"{summary.turns:,} turns")
    if summary.systems:
        parts.append(f"{summary.systems:,} with a system message")
    return ", ".join(parts)


def _duplicates(summaries: Mapping[str, Summary]) -> str:
    parts = []
    for split, summary in summaries.items():
        extra = len(summary.keys) - len(np.unique(np.asarray(summary.keys)))
        parts.append(f"{extra:,} of {split}")
    return ", ".join(parts)


def _overlap(train: Summary, dev: Summary) -> str:
    equal = np.isin(np.asarray(dev.keys), np.asarray(train.keys)).sum()
    questions = np.isin(np.asarray(dev.questions), np.asarray(train.questions)).sum()
    text = f"{equal:,} records of dev are in train"
    if questions > equal:
        text += f"; {questions - equal:,} more have a question of train with another answer"
    return text


def samples(
    dataset: Dataset, count: int, train: Summary, encoders: Encoders | None
) -> Iterator[str]:
    """Yield the histogram of lengths, and samples evenly spread over the data.

    Args:
        dataset: the data set.
        count: how many samples.
        train: the summary of its split ``train``.
        encoders: of a model, to render samples with its chat template; None for plain texts.
    """
    unit = "tokens" if encoders else "characters"
    sizes = np.asarray(train.lengths)
    middle, high = np.percentile(sizes, (50, 95)).astype(int)
    share = train.learned / max(1, int(sizes.sum()))
    yield ""
    yield (
        f"  length in {unit}: median {middle:,}, 95% up to {high:,}, longest {sizes.max():,}; "
        f"{share:.0%} learned"
    )
    yield from (f"  {line}" for line in _histogram(sizes))
    if encoders:
        limits = f"src_length {encoders.src_length}, max_length {encoders.max_length}"
        yield f"  {train.shortened:,} records would be cut ({limits})"
    chosen = {number * len(sizes) // count for number in range(count)} if count else set()
    if not chosen:
        return
    yield ""
    yield f"  samples, with the learned part in {''.join(_LEARNED)}"
    for index, record in enumerate(records.read(dataset, "train")):
        if index in chosen:
            text = _rendered(record, encoders)
            more = " …" if len(text) > _LONGEST_SAMPLE else ""
            yield ""
            yield f"  {record.where}"
            yield from (f"    {line}" for line in (text[:_LONGEST_SAMPLE] + more).splitlines())


def _histogram(sizes: Any) -> Iterator[str]:
    """Yield a bar for each power of two."""
    ends = [2**power for power in range(4, 64) if 2 ** (power - 1) < int(sizes.max()) + 1]
    ends = ends or [16]
    counts = np.histogram(sizes, [0, *ends])[0]
    first = int(np.flatnonzero(counts)[0])
    width = len(f"{ends[-1] - 1:,}")
    for index in range(first, len(ends)):
        start = 0 if index == 0 else ends[index - 1]
        bar = "█" * round(_BAR * counts[index] / counts.max())
        yield f"{start:>{width},} - {ends[index] - 1:>{width},}  {bar} {counts[index]:,}"


def _rendered(record: Record, encoders: Encoders | None) -> str:
    """Return a record as a text with the learned parts in brackets."""
    if encoders is not None:
        return _decoded(encoders.cut.encode(record)[0], encoders.tokenizer)
    texts = [f"system: {record.system}"] if record.system else []
    for question, answer in zip(record.src, record.tgt, strict=True):
        texts += [f"user: {question}", f"assistant: {answer.join(_LEARNED)}"]
    return "\n".join(texts)


def _decoded(example: Example, tokenizer: Any) -> str:
    """Return an example's text.

    Beginnings are decoded, and not parts: a tokenizer may drop the space that a part begins
    with.
    """
    ids = (*example.input_ids, example.labels[-1])
    ids = ids if ids[-1] != IGNORED else ids[:-1]
    learned = [False, *(label != IGNORED for label in example.labels)][: len(ids)]
    text, end, parts = "", 0, []
    for is_learned, run in groupby(learned):
        end += len(list(run))
        longer = tokenizer.decode(
            ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        part = longer[len(text) :]
        parts.append(part.join(_LEARNED) if is_learned else part)
        text = longer
    return "".join(parts)

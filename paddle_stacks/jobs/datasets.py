"""Data sets as ``dataset_name_or_path`` names them: which files hold which split.

A data set is a file, or a folder with files for training (``train.json``, ``train.csv``,
``train/``) and for evaluation (``dev.json``, ``dev/``). Without the latter, a part of the
records for training is held out. Several data sets are named with weights, as in
``"0.3 data/a 0.7 data/b"``; the weights are shares of an epoch.
"""

from __future__ import annotations

import heapq
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs import data_files, sample_data
from paddle_stacks.jobs.record_formats import FORMAT, Conversation

__all__ = [
    "DEV_RATIO",
    "Dataset",
    "Source",
    "columns_of",
    "files",
    "has_files",
    "holdout_key",
    "holdout_limit",
]

DEV_RATIO = 0.05
"""The part of the records that is held out for evaluation where a data set has none."""

_SPLITS = {
    "train": ("train",),
    "dev": ("dev", "validation", "valid", "val", "eval"),
    "quant": ("quant",),
    "test": ("test",),
}
_NOT_TRAIN = frozenset(name for split in ("dev", "quant", "test") for name in _SPLITS[split])
_MANIFEST = "paddle-stacks.json"  # of fetch-data
_KNOWN = ", ".join(f"*{suffix}" for suffix in data_files.FORMATS)


@dataclass(frozen=True)
class Source:
    """A file or folder of records.

    Args:
        path: relative to the working directory.
        weight: its share of an epoch, relative to those of the others.
    """

    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class Dataset:
    """The data sets of a training.

    Args:
        sources: one or several; several are mixed by their weights.
        columns: keys of question, answer and system message; empty to recognize the format.
        dev_ratio: part of the records that is held out where a source has no evaluation data;
            0 to hold out nothing.
        seed: decides which records are held out, and which a weight leaves out.
    """

    sources: tuple[Source, ...]
    columns: tuple[str, ...] = ()
    dev_ratio: float = 0.0
    seed: int = 42

    @classmethod
    def of(cls, data: Path | Dataset) -> Dataset:
        """Return a path as a data set of its own; a data set unchanged."""
        return data if isinstance(data, cls) else cls((Source(Path(str(data))),))

    @classmethod
    def from_config(cls, config: Any, here: Path = Path()) -> Dataset:
        """Return the data set of a fine-tuning.

        Args:
            config: of ``finetune``.
            here: the folder that relative paths start in.

        Raises:
            RequestError: ``dataset_name_or_path`` or ``data_columns`` is malformed.
        """
        return cls(
            cls.parse_sources(config["dataset_name_or_path"], here),
            columns_of(config["data_columns"] or ""),
            config["dev_ratio"] if config["do_eval"] else 0.0,
            config["seed"],
        )

    @staticmethod
    def parse_sources(text: str, here: Path = Path()) -> tuple[Source, ...]:
        """Return the data sets that a text names: one path, or weights and paths in turn.

        Raises:
            RequestError: it has several words, and they are not weights and paths.
        """
        words = text.split()
        if len(words) < 2 or (here / text).exists() or not re.match(r"[-+.\d]", words[0]):
            return (Source(here / text),)
        problems = []
        if len(words) % 2:
            problems.append(Problem("expected weights and paths in turn", f'"{text}"', _BLEND))
        weights = [_weight(word) for word in words[::2]]
        problems += [
            Problem(f'"{word}" is not a weight', f'"{text}"', "a weight is a number above 0")
            for word, weight in zip(words[::2], weights, strict=True)
            if not weight
        ]
        twice = [name for name in dict.fromkeys(words[1::2]) if words[1::2].count(name) > 1]
        if twice:
            problems.append(Problem(f"{twice[0]} is named twice", f'"{text}"', "add its weights"))
        if problems:
            raise RequestError(problems)
        pairs = zip(words[1::2], weights, strict=True)
        return tuple(Source(here / name, weight) for name, weight in pairs)

    def shares(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Return how many records of each source an epoch has.

        An epoch has as many records as there are; a single source is used once.

        Args:
            counts: the records of each source.
        """
        total = sum(source.weight for source in self.sources)
        records = sum(counts)
        return tuple(
            max(1, round(records * source.weight / total)) if count else 0
            for source, count in zip(self.sources, counts, strict=True)
        )


_NO_DEV = "--set evaluation_strategy=no --set do_eval=false"
_BLEND = 'for instance "0.3 data/a 0.7 data/b"; paths with spaces cannot be mixed'


def _weight(word: str) -> float:
    try:
        weight = float(word)
    except ValueError:
        return 0.0
    return weight if 0 < weight < float("inf") else 0.0


def columns_of(text: str) -> tuple[str, ...]:
    """Return the columns that ``data_columns`` names.

    Args:
        text: ``QUESTION:ANSWER`` or ``QUESTION:ANSWER:SYSTEM``; empty for none.

    Raises:
        RequestError: it is something else.
    """
    names = tuple(name.strip() for name in text.split(":")) if text else ()
    if names and (len(names) not in (2, 3) or not all(names) or len(set(names)) < len(names)):
        raise RequestError(
            "expected two or three different names of columns",
            where=f'"data_columns": "{text}"',
            remedy="--set data_columns=question:answer, or question:answer:system",
        )
    return names


def has_files(path: Path, split: str) -> bool:
    """Return whether a data set has files of a split.

    Raises:
        RequestError: it is not clear which ones are meant.
    """
    return bool(path.exists() and _find(path, split, upstream=False))


def files(path: Path, split: str, *, upstream: bool = False) -> tuple[Path, ...]:
    """Return the files of a split, such as ``train.json`` or those in ``train/``.

    Args:
        path: the data set; a file is its own split ``train``.
        split: ``train``, ``dev`` or ``quant``.
        upstream: whether PaddleNLP's own program reads them, which knows ``*.json`` only.

    Raises:
        RequestError: there are none, or it is not clear which ones are meant.
    """
    if not path.exists():
        near = did_you_mean(path.name, _neighbours(path))
        raise RequestError(
            "the data set does not exist",
            where=str(path),
            remedy=sample_data.fetch_command(path)
            or near
            or "check its name; paths start in the workspace",
        )
    if paths := _find(path, split, upstream=upstream):
        return paths
    if path.is_file():
        raise RequestError(
            f"the data set is one file, without records for {split}",
            where=str(path),
            remedy=f"--set dev_ratio={DEV_RATIO} holds out some of its records; or {_NO_DEV}",
        )
    raise RequestError(
        f"the data folder has no {split}.json or {split}.jsonl", where=str(path), remedy=FORMAT
    )


def _find(path: Path, split: str, *, upstream: bool) -> tuple[Path, ...]:
    if path.is_file():
        if upstream:
            raise _not_for_upstream(path, path)
        if split != "train":
            return ()
        _check_name(path)
        return (path,)
    inside = sorted(each for each in path.iterdir() if each.is_file())
    names = _SPLITS[split]
    single = [each for each in inside if data_files.stem(each) in names and each.suffix]
    folders = [path / name for name in names if (path / name).is_dir()]
    several = [
        each
        for folder in folders
        for each in sorted(folder.iterdir())
        if each.is_file() and _is_data(each)
    ]
    single = [each for each in single if _is_data(each)]
    if len(single) > 1 or len(folders) > 1 or (single and several):
        shown = [each.name for each in single] + [f"{folder.name}/" for folder in folders]
        raise RequestError(
            f"{' and '.join(shown)} are both there: it is not clear which one is meant",
            where=str(path),
            remedy=f"keep one of them, or move all files into {split}/",
        )
    chosen = single or several
    if not chosen and split == "train" and not upstream:
        chosen = [
            each for each in inside if _is_data(each) and data_files.stem(each) not in _NOT_TRAIN
        ]
    for each in chosen:
        if upstream and each.suffix != ".json":
            raise _not_for_upstream(each, path)
        _check_name(each)
    return tuple(chosen)


def _is_data(path: Path) -> bool:
    """Return whether a file looks like data, of a kind that is read or of another."""
    return (
        not path.name.startswith(".")
        and path.name != _MANIFEST
        and (
            bool(data_files.format_of(path))
            or path.suffix in data_files.UNREAD_SUFFIXES
            or path.suffix in (".gz", ".zst")
        )
    )


def _check_name(path: Path) -> None:
    if not data_files.format_of(path):
        raise RequestError(
            f"{path.name} would not be read: its name tells no known format",
            where=str(path),
            remedy=f"known: {_KNOWN}, all but *.parquet also with .gz or .zst; convert it, "
            "rename it, or move it away",
        )


def _not_for_upstream(path: Path, dataset: Path) -> RequestError:
    return RequestError(
        f"{path.name} would not be read: PaddleNLP's own program reads only *.json",
        where=str(path),
        remedy=f"./inv data {dataset} --convert data/NAME writes such a folder",
    )


def holdout_limit(keys: array[int], ratio: float, path: Path) -> int:
    """Return the limit of :func:`holdout_key`: records up to it are held out.

    Equal records have equal keys, so that none of them is on both sides.

    Args:
        keys: of all records.
        ratio: the part to hold out; at least one record is.
        path: the data set, for messages.

    Raises:
        RequestError: no record would be left to train on.
    """
    limit = heapq.nsmallest(max(1, round(len(keys) * ratio)), keys)[-1]
    if all(key <= limit for key in keys):
        count = f"{len(keys)} equal records" if len(keys) > 1 else "one record"
        raise RequestError(
            f"the data set has {count}: none can be held out for evaluation",
            where=str(path),
            remedy=f"add dev.json, or {_NO_DEV}",
        )
    return limit


def holdout_key(conversation: Conversation, seed: int) -> int:
    """Return a number that decides whether a record is held out, by its texts and the seed."""
    texts = (*conversation.src, *conversation.tgt, conversation.system or "")
    digest = blake2b(digest_size=8, key=str(seed).encode())
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\0")
    return int.from_bytes(digest.digest(), "big")


def _neighbours(path: Path) -> list[str]:
    parent = path.parent
    return [each.name for each in parent.iterdir()] if parent.is_dir() else []

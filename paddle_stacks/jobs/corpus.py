"""Text for pretraining: the inputs of ``prepare``, its output, and the splits of training.

A corpus is a pair of files with one prefix: ``.bin`` with the concatenated tokens of all
documents, and ``.idx`` with their lengths. The layout is upstream's
(``paddlenlp.data.indexed_dataset.MMapIndexedDataset``, itself Megatron's).
"""

from __future__ import annotations

import glob
import os
import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs import texts

__all__ = [
    "HEADER",
    "ITEMS",
    "MAGIC",
    "STDIN",
    "Pair",
    "Part",
    "Source",
    "bounds",
    "index_path",
    "lengths",
    "look",
    "manifest_path",
    "partial_folder",
    "parts",
    "prefix_of",
    "shares",
    "sources",
    "tokens_path",
]

STDIN = "-"
MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, type of a token, sequences, documents and one
ITEMS = {8: 2, 4: 4}  # bytes of a token by its type: uint16 and int32, all that upstream writes

_PACKED = (".gz", ".zst")
_FORMATS = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "text",
    ".text": "text",
}
_FORMS = f"file names end in {', '.join(_FORMATS)}, also with .gz or .zst"
_WHERE = "; paths start in the workspace"


@dataclass(frozen=True)
class Source:
    """A file of text.

    Args:
        path: the path, as on the command line; ``-`` for standard input.
        format: ``jsonl``, ``text``, or ``document`` for text that is one document.
        size: bytes, as stored; 0 for standard input.
        modified: nanoseconds since 1970; 0 for standard input.
    """

    path: str
    format: str
    size: int = 0
    modified: int = 0


@dataclass(frozen=True)
class Pair:
    """A corpus as its index describes it.

    Args:
        prefix: the path without ``.bin`` and ``.idx``.
        code: the type of a token, a key of :data:`ITEMS`.
        documents: number of documents.
        tokens: number of tokens.
    """

    prefix: Path
    code: int
    documents: int
    tokens: int


@dataclass(frozen=True)
class Part:
    """A corpus and its share of a blend.

    Args:
        weight: the share; all shares add up to 1.
        pair: the corpus.
    """

    weight: float
    pair: Pair


def tokens_path(prefix: Path) -> Path:
    """Return the file of a corpus's tokens."""
    return prefix.with_name(prefix.name + ".bin")


def index_path(prefix: Path) -> Path:
    """Return the file of a corpus's index, which exists only if the corpus is complete."""
    return prefix.with_name(prefix.name + ".idx")


def manifest_path(prefix: Path) -> Path:
    """Return the file that records a corpus's inputs and options."""
    return prefix.with_name(prefix.name + ".manifest.json")


def partial_folder(prefix: Path) -> Path:
    """Return the folder of an unfinished corpus."""
    return prefix.with_name(f".{prefix.name}.partial")


def prefix_of(output: str) -> Path:
    """Return the prefix of ``--output``.

    Raises:
        RequestError: it cannot be a prefix.
    """
    prefix = Path(output)
    if not prefix.name or output.endswith("/") or prefix.is_dir():
        raise RequestError(
            "the output is a folder; expected a prefix of file names",
            where=output,
            remedy="--output data/corpus writes data/corpus.bin and data/corpus.idx",
        )
    if prefix.suffix in (".bin", ".idx"):
        raise RequestError(
            f"the output must not end in {prefix.suffix}",
            where=output,
            remedy=f"--output {prefix.with_suffix('')}",
        )
    return prefix


def sources(
    inputs: Sequence[str], form: str = "auto", here: Path = Path(), *, texts_here: bool = True
) -> tuple[Source, ...]:
    """Return the files of the inputs, in the order in which they are read.

    Inputs keep their order. The files of a folder or a pattern are sorted by path, as upstream
    does.

    Args:
        inputs: files, folders, patterns, named texts, or ``-`` for standard input.
        form: ``jsonl`` or ``text`` for all files of the workspace, or ``auto`` for their names.
        here: the folder that relative paths start from.
        texts_here: whether the named texts exist, as in an image. On the host only their names
            are checked, and their files are not returned.

    Raises:
        RequestError: with a problem for each input that cannot be read.
    """
    problems: list[Problem] = []
    files: list[Source] = []
    for number, text in enumerate(inputs):
        if text == STDIN:
            files.append(Source(STDIN, "jsonl" if form == "auto" else form))
            continue
        try:
            if text.startswith(texts.PREFIX):
                named = texts.find(text)
                if text in inputs[:number]:
                    problems.append(Problem("the text is an input twice", text, "name it once"))
                elif texts_here:
                    files += _documents(named)
                continue
            files += [_source(path, form, here) for path in _files(text, form, here)]
        except RequestError as error:
            problems += error.problems
    if STDIN in inputs and len(inputs) > 1:
        message = "standard input cannot be combined with other inputs"
        problems.append(Problem(message, "--input", "prepare it as a separate corpus"))
    names = [os.path.realpath(here / source.path) for source in files if source.path != STDIN]
    problems += [
        Problem("the file is an input twice", os.path.relpath(name, here), "name it once")
        for name, times in Counter(names).items()
        if times > 1
    ]
    if problems or not inputs:
        raise RequestError(
            problems or [Problem("--input is required", "--input", "--input data/raw")]
        )
    return tuple(files)


def _documents(text: texts.Text) -> list[Source]:
    files = [(path, path.stat()) for path in text.files()]
    return [
        Source(str(path), "document", state.st_size, state.st_mtime_ns) for path, state in files
    ]


def _files(text: str, form: str, here: Path) -> list[str]:
    path = here / text
    if path.is_dir():
        # os.walk and not rglob: upstream's order is that of the paths as strings.
        paths = [
            f"{root}/{name}"
            for root, _, names in os.walk(path)
            for name in names
            if not name.startswith(".") and (form != "auto" or _format(name))
        ]
        if not paths:
            raise RequestError("the folder has no text files", where=text, remedy=_FORMS)
        return sorted(
            name if Path(text).is_absolute() else os.path.relpath(name, here) for name in paths
        )
    if path.exists():
        return [text]
    if glob.has_magic(text):
        matched = glob.glob(text, root_dir=here, recursive=True)  # noqa: PTH207 (takes absolute ones)
        paths = sorted(name for name in matched if (here / name).is_file())
        if not paths:
            raise RequestError(
                "no file matches the pattern",
                where=text,
                remedy='quote it, as in --input "data/*.jsonl"; ** matches folders' + _WHERE,
            )
        return paths
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise RequestError(
        "no such file or folder",
        where=text,
        remedy=did_you_mean(path.name, beside) or f"copy it there{_WHERE}",
    )


def _source(name: str, form: str, here: Path) -> Source:
    path = here / name
    if not path.is_file():
        remedy = f"read it from standard input: --input - < {name}"
        raise RequestError("neither a file nor a folder", where=name, remedy=remedy)
    kind = _format(name) if form == "auto" else form
    if not kind:
        raise RequestError(
            "the file's format is unknown",
            where=name,
            remedy=f"{_FORMS}; or --format jsonl, --format text",
        )
    if not os.access(path, os.R_OK):
        raise RequestError("the file cannot be read", where=name, remedy=f"chmod +r {name}")
    state = path.stat()
    return Source(name, kind, state.st_size, state.st_mtime_ns)


def _format(name: str) -> str:
    path = Path(name.lower())
    suffix = Path(path.stem).suffix if path.suffix in _PACKED else path.suffix
    return _FORMATS.get(suffix, "")


def shares(text: str) -> tuple[float, float, float]:
    """Return the shares of training, evaluation and test in upstream's ``split``.

    Raises:
        RequestError: it does not consist of one to three numbers, or their sum is 0.
    """
    words = text.split("," if "," in text else "/")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    is_valid = 1 <= len(numbers) <= 3 and all(0 <= number < float("inf") for number in numbers)
    if not is_valid or sum(numbers) <= 0:
        raise RequestError(
            f'"{text}" is not a split',
            where="--split",
            remedy="shares of training, evaluation and test: --split 949,50,1",
        )
    total = sum(numbers)
    first, second, third = (number / total for number in [*numbers, 0.0, 0.0][:3])
    return first, second, third


def bounds(text: str, documents: int) -> tuple[int, int, int, int]:
    """Return the first document of training, evaluation and test, and the end of test.

    The arithmetic and its rounding are upstream's
    (``causal_dataset.get_train_valid_test_split_``), as in training.

    Raises:
        RequestError: as :func:`shares`.
    """
    places = [0]
    for share in shares(text):
        places.append(places[-1] + round(share * float(documents)))
    over = places[-1] - documents
    first, second, third = (place - over for place in places[1:])
    return 0, first, second, third


def parts(text: str, here: Path = Path()) -> tuple[Part, ...]:
    """Return the corpora of upstream's ``input_dir``, with their shares.

    One word is a folder, whose corpora have equal shares, or the prefix of a corpus. Several
    words alternate weights and prefixes: ``0.3 data/a 0.7 data/b``.

    Raises:
        RequestError: with a problem for each fault.
    """
    words = text.split()
    if len(words) < 2:
        return _alike(text.strip(), here)
    if len(words) % 2:
        raise RequestError(
            f'"{text}" must alternate weights and prefixes',
            where="PATH",
            remedy='such as "0.3 data/a 0.7 data/b"; paths cannot contain spaces',
        )
    problems: list[Problem] = []
    weighted: list[tuple[float, Pair]] = []
    for word, name in zip(words[::2], words[1::2], strict=True):
        try:
            weighted.append((_weight(word), look(here / name)))
        except RequestError as error:
            problems += error.problems
    if problems:
        raise RequestError(problems)
    return _shared(weighted)


def _alike(name: str, here: Path) -> tuple[Part, ...]:
    folder = here / name
    prefixes: Iterable[Path] = [folder.with_name(folder.name.removesuffix(".idx"))]
    if folder.is_dir():
        prefixes = [path.with_suffix("") for path in sorted(folder.glob("*.idx"))]
        if not prefixes:
            raise RequestError(
                "the folder has no corpus (*.idx, *.bin)",
                where=str(folder),
                remedy="create one: ./inv prepare --input TEXT --output PREFIX --model NAME",
            )
    return _shared([(1.0, look(prefix)) for prefix in prefixes])


def _shared(weighted: Sequence[tuple[float, Pair]]) -> tuple[Part, ...]:
    total = sum(weight for weight, _ in weighted)
    return tuple(Part(weight / total, pair) for weight, pair in weighted)


def _weight(word: str) -> float:
    try:
        weight = float(word)
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf"):
        raise RequestError(
            f'a weight must be greater than 0, got "{word}"', where="PATH", remedy="such as 0.5"
        )
    return weight


def look(prefix: Path) -> Pair:
    """Return the contents of a corpus, after a check that its two files belong together.

    Raises:
        RequestError: a file is missing, is not a corpus, or is truncated.
    """
    index, tokens = index_path(prefix), tokens_path(prefix)
    for path in (index, tokens):
        if not path.is_file():
            beside = [p.stem for p in prefix.parent.glob("*.idx")]
            raise RequestError(
                f"{path.name} does not exist",
                where=str(prefix.parent),
                remedy=did_you_mean(prefix.name, beside)
                or "create one: ./inv prepare --input TEXT --output PREFIX --model NAME",
            )
    with index.open("rb") as stream:
        head = stream.read(HEADER.size)
        if len(head) < HEADER.size or not head.startswith(MAGIC):
            raise RequestError(
                "the file is not the index of a corpus",
                where=str(index),
                remedy="use the PREFIX of a corpus that prepare wrote: PREFIX.idx and PREFIX.bin",
            )
        _, version, code, sequences, ends = HEADER.unpack(head)
        if version != 1 or code not in ITEMS:
            raise RequestError(
                f"unsupported index: version {version}, type {code}",
                where=str(index),
                remedy="prepare the corpus again; another program wrote this one",
            )
        size = HEADER.size + 12 * sequences + 8 * ends
        if index.stat().st_size != size or not ends:
            raise RequestError(
                f"truncated: expected {size} bytes, got {index.stat().st_size}",
                where=str(index),
                remedy="copy it again, or prepare the corpus again",
            )
        last = 0
        if sequences:
            stream.seek(HEADER.size + 4 * (sequences - 1))
            (length,) = struct.unpack("<i", stream.read(4))
            stream.seek(HEADER.size + 12 * sequences - 8)
            (place,) = struct.unpack("<q", stream.read(8))
            last = place + length * ITEMS[code]
    if tokens.stat().st_size != last:
        raise RequestError(
            f"expected {last} bytes, as in the index, got {tokens.stat().st_size}",
            where=str(tokens),
            remedy="copy both files again, or prepare the corpus again",
        )
    return Pair(prefix, code, ends - 1, last // ITEMS[code])


def lengths(pair: Pair) -> Sequence[int]:
    """Return the number of tokens of each document."""
    with index_path(pair.prefix).open("rb") as stream:
        stream.seek(HEADER.size)
        return array("i", stream.read(4 * pair.documents))

"""Text for pretraining: what ``prepare`` reads, what it leaves, and how training divides it.

A corpus is a pair of files with one prefix: ``.bin``, the tokens of all documents one
after another, and ``.idx``, how long each is. The layout is upstream's
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
_KNOWN = ", ".join(_FORMATS) + ", each also with .gz or .zst"
_WHERE = "; paths start in the workspace"


@dataclass(frozen=True)
class Source:
    """A file of text.

    Args:
        path: as it was named; ``-`` for standard input.
        format: ``jsonl``, ``text``, or ``document``: text that is one document.
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
        documents: how many.
        tokens: in all of them.
    """

    prefix: Path
    code: int
    documents: int
    tokens: int


@dataclass(frozen=True)
class Part:
    """A corpus and its share of a blend.

    Args:
        weight: the share, all of them being 1.
        pair: the corpus.
    """

    weight: float
    pair: Pair


def tokens_path(prefix: Path) -> Path:
    """Return the name of a corpus's tokens."""
    return prefix.with_name(prefix.name + ".bin")


def index_path(prefix: Path) -> Path:
    """Return the name of a corpus's index; who sees it sees a whole pair."""
    return prefix.with_name(prefix.name + ".idx")


def manifest_path(prefix: Path) -> Path:
    """Return the name of the file that says what a corpus was made of, and how."""
    return prefix.with_name(prefix.name + ".manifest.json")


def partial_folder(prefix: Path) -> Path:
    """Return the folder in which a corpus grows before it has its name."""
    return prefix.with_name(f".{prefix.name}.partial")


def prefix_of(output: str) -> Path:
    """Return the prefix that ``--output`` names.

    Raises:
        RequestError: it cannot be one.
    """
    prefix = Path(output)
    if not prefix.name or output.endswith("/") or prefix.is_dir():
        raise RequestError(
            "the output is a folder, and has to be the beginning of names",
            where=output,
            remedy="--output data/corpus makes data/corpus.bin and data/corpus.idx",
        )
    if prefix.suffix in (".bin", ".idx"):
        raise RequestError(
            f"the output is named without {prefix.suffix}",
            where=output,
            remedy=f"--output {prefix.with_suffix('')}",
        )
    return prefix


def sources(
    inputs: Sequence[str], form: str = "auto", here: Path = Path(), *, texts_here: bool = True
) -> tuple[Source, ...]:
    """Return the files that the inputs name, in the order in which they are read.

    Inputs keep their order; what a folder or a pattern holds is sorted by its path, as
    upstream sorts.

    Args:
        inputs: files, folders, patterns, named texts, or ``-`` for standard input.
        form: ``jsonl`` or ``text`` for all files of the workspace, or ``auto``: by their names.
        here: what relative paths start from.
        texts_here: whether this is an image, which has the named texts. On the host their
            names are checked, and none of their files are returned.

    Raises:
        RequestError: with a problem for each input that cannot be read.
    """
    problems: list[Problem] = []
    found: list[Source] = []
    for number, text in enumerate(inputs):
        if text == STDIN:
            found.append(Source(STDIN, "jsonl" if form == "auto" else form))
            continue
        try:
            if text.startswith(texts.PREFIX):
                named = texts.find(text)
                if text in inputs[:number]:
                    problems.append(Problem("the same text is named twice", text, "name it once"))
                elif texts_here:
                    found += _documents(named)
                continue
            found += [_source(path, form, here) for path in _files(text, form, here)]
        except RequestError as error:
            problems += error.problems
    if STDIN in inputs and len(inputs) > 1:
        what = "standard input cannot be read beside other inputs"
        problems.append(Problem(what, "--input", "prepare it first, as a corpus of its own"))
    names = [os.path.realpath(here / source.path) for source in found if source.path != STDIN]
    problems += [
        Problem("the same file is named twice", os.path.relpath(name, here), "name it once")
        for name, times in Counter(names).items()
        if times > 1
    ]
    if problems or not inputs:
        raise RequestError(
            problems or [Problem("there is no input", "--input", "--input data/raw")]
        )
    return tuple(found)


def _documents(text: texts.Text) -> list[Source]:
    found = [(path, path.stat()) for path in text.files()]
    return [
        Source(str(path), "document", state.st_size, state.st_mtime_ns) for path, state in found
    ]


def _files(text: str, form: str, here: Path) -> list[str]:
    path = here / text
    if path.is_dir():
        # os.walk and not rglob: upstream's order is that of the paths as strings.
        found = [
            f"{root}/{name}"
            for root, _, names in os.walk(path)
            for name in names
            if not name.startswith(".") and (form != "auto" or _format(name))
        ]
        if not found:
            raise RequestError("the folder has no text", where=text, remedy=f"known: {_KNOWN}")
        return sorted(
            name if Path(text).is_absolute() else os.path.relpath(name, here) for name in found
        )
    if path.exists():
        return [text]
    if glob.has_magic(text):
        matched = glob.glob(text, root_dir=here, recursive=True)  # noqa: PTH207 (takes absolute ones)
        found = sorted(name for name in matched if (here / name).is_file())
        if not found:
            raise RequestError(
                "no file fits the pattern",
                where=text,
                remedy='quote it, as --input "data/*.jsonl"; ** goes into folders' + _WHERE,
            )
        return found
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise RequestError(
        "there is no such file or folder",
        where=text,
        remedy=did_you_mean(path.name, beside) or f"copy it there{_WHERE}",
    )


def _source(name: str, form: str, here: Path) -> Source:
    path = here / name
    if not path.is_file():
        remedy = f"--input - < {name} reads what comes through it"
        raise RequestError("neither a file nor a folder", where=name, remedy=remedy)
    known = _format(name) if form == "auto" else form
    if not known:
        raise RequestError(
            "its name does not say what is in it",
            where=name,
            remedy=f"known: {_KNOWN}; or --format jsonl, --format text",
        )
    if not os.access(path, os.R_OK):
        raise RequestError("it may not be read", where=name, remedy=f"chmod +r {name}")
    found = path.stat()
    return Source(name, known, found.st_size, found.st_mtime_ns)


def _format(name: str) -> str:
    path = Path(name.lower())
    suffix = Path(path.stem).suffix if path.suffix in _PACKED else path.suffix
    return _FORMATS.get(suffix, "")


def shares(text: str) -> tuple[float, float, float]:
    """Return the shares of training, evaluation and test, as upstream's ``split`` names them.

    Raises:
        RequestError: it is not one to three numbers, or they are no shares.
    """
    words = text.split("," if "," in text else "/")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    right = 1 <= len(numbers) <= 3 and all(0 <= number < float("inf") for number in numbers)
    if not right or sum(numbers) <= 0:
        raise RequestError(
            f'"{text}" is no split',
            where="--split",
            remedy="shares of training, evaluation and test: --split 949,50,1",
        )
    total = sum(numbers)
    first, second, third = (number / total for number in [*numbers, 0.0, 0.0][:3])
    return first, second, third


def bounds(text: str, documents: int) -> tuple[int, int, int, int]:
    """Return where training, evaluation and test begin, and where test ends.

    The arithmetic is upstream's (``causal_dataset.get_train_valid_test_split_``), rounding
    included, so that what is shown is what training takes.

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
    """Return the corpora that upstream's ``input_dir`` names, with their shares.

    One word is a folder, whose corpora count alike, or a corpus's prefix; several are
    weights and prefixes in turn, as ``0.3 data/a 0.7 data/b``.

    Raises:
        RequestError: with a problem for each fault.
    """
    words = text.split()
    if len(words) < 2:
        return _alike(text.strip(), here)
    if len(words) % 2:
        raise RequestError(
            f'"{text}" is not weights and corpora in turn',
            where="PATH",
            remedy='for instance "0.3 data/a 0.7 data/b"; no path may hold a space',
        )
    problems: list[Problem] = []
    found: list[tuple[float, Pair]] = []
    for word, name in zip(words[::2], words[1::2], strict=True):
        try:
            found.append((_weight(word), look(here / name)))
        except RequestError as error:
            problems += error.problems
    if problems:
        raise RequestError(problems)
    return _shared(found)


def _alike(name: str, here: Path) -> tuple[Part, ...]:
    folder = here / name
    prefixes: Iterable[Path] = [folder.with_name(folder.name.removesuffix(".idx"))]
    if folder.is_dir():
        prefixes = [path.with_suffix("") for path in sorted(folder.glob("*.idx"))]
        if not prefixes:
            raise RequestError(
                "the folder has no corpus (*.idx, *.bin)",
                where=str(folder),
                remedy="./inv prepare --input TEXT --output PREFIX --model NAME makes one",
            )
    return _shared([(1.0, look(prefix)) for prefix in prefixes])


def _shared(found: Sequence[tuple[float, Pair]]) -> tuple[Part, ...]:
    total = sum(weight for weight, _ in found)
    return tuple(Part(weight / total, pair) for weight, pair in found)


def _weight(word: str) -> float:
    try:
        weight = float(word)
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf"):
        raise RequestError(f'"{word}" is no weight', where="PATH", remedy="a number above 0")
    return weight


def look(prefix: Path) -> Pair:
    """Return what a corpus holds, after a check that its two files belong together.

    Raises:
        RequestError: a file is missing, is something else, or is cut off.
    """
    index, tokens = index_path(prefix), tokens_path(prefix)
    for path in (index, tokens):
        if not path.is_file():
            beside = [p.stem for p in prefix.parent.glob("*.idx")]
            raise RequestError(
                f"there is no {path.name}",
                where=str(prefix.parent),
                remedy=did_you_mean(prefix.name, beside)
                or "./inv prepare --input TEXT --output PREFIX --model NAME makes one",
            )
    with index.open("rb") as stream:
        head = stream.read(HEADER.size)
        if len(head) < HEADER.size or not head.startswith(MAGIC):
            raise RequestError(
                "it is no index of a corpus",
                where=str(index),
                remedy="name PREFIX of a corpus that prepare made: PREFIX.idx and PREFIX.bin",
            )
        _, version, code, sequences, ends = HEADER.unpack(head)
        if version != 1 or code not in ITEMS:
            raise RequestError(
                f"an index of version {version}, type {code}",
                where=str(index),
                remedy="prepare the corpus again: this one is another program's",
            )
        wanted = HEADER.size + 12 * sequences + 8 * ends
        if index.stat().st_size != wanted or not ends:
            raise RequestError(
                f"cut off: {index.stat().st_size} bytes, and {wanted} are to be there",
                where=str(index),
                remedy="copy it whole, or prepare the corpus again",
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
            f"{tokens.stat().st_size} bytes, and the index speaks of {last}",
            where=str(tokens),
            remedy="copy both files whole, or prepare the corpus again",
        )
    return Pair(prefix, code, ends - 1, last // ITEMS[code])


def lengths(pair: Pair) -> Sequence[int]:
    """Return the tokens of each document."""
    with index_path(pair.prefix).open("rb") as stream:
        stream.seek(HEADER.size)
        return array("i", stream.read(4 * pair.documents))

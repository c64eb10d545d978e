"""Readers of the files that training data is kept in, one entry after the other.

JSON lines, a JSON array, CSV and TSV, each plain or compressed with gzip or Zstandard, and
Parquet. Zstandard and Parquet need pyarrow, which the images for training have and the host
has not.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NoReturn

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_arrays
from paddle_stacks.jobs.record_formats import FORMAT

__all__ = [
    "FORMATS",
    "LONGEST_LINE",
    "UNREAD_SUFFIXES",
    "Entry",
    "entries",
    "format_of",
    "is_readable",
    "stem",
]

LONGEST_LINE = 16 * 1024 * 1024  # bytes

FORMATS = {
    ".json": "JSON",
    ".jsonl": "JSON",
    ".ndjson": "JSON",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".parquet": "Parquet",
}
"""The format of a file by its suffix."""

UNREAD_SUFFIXES = frozenset(
    {".arrow", ".bz2", ".feather", ".ods", ".tar", ".tgz", ".xls", ".xlsx", ".xz", ".zip"}
)
"""Suffixes of data that is not read: leaving such a file out silently would lose it."""

Entry = tuple[str, Any]
"""The place of an entry in its file, and its value: a :class:`RequestError` if it has none."""

_COMPRESSED = (".gz", ".zst")
_BOM = b"\xef\xbb\xbf"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OTHERS = {
    b"BZh": "compressed with bzip2",
    b"\xfd7zX": "compressed with xz",
    b"PK\x03\x04": "a ZIP archive, such as an Excel workbook",
    b"PAR1": "Parquet, and its name does not end with .parquet",
}
_HEAD = 65536  # bytes that tell what a file is
_ROWS = 512  # of a Parquet file that are in memory at once


def format_of(path: Path) -> str:
    """Return the format that a file's name tells, as in :data:`FORMATS`; empty for none."""
    suffixes = path.suffixes[-2:]
    if len(suffixes) == 2 and suffixes[1] in _COMPRESSED:
        name = FORMATS.get(suffixes[0], "")
        return "" if name == "Parquet" else name
    return FORMATS.get(path.suffix, "")


def stem(path: Path) -> str:
    """Return a file's name without the suffixes of format and compression."""
    name = path.name
    for suffix in (*_COMPRESSED, *FORMATS, *UNREAD_SUFFIXES):
        name = name.removesuffix(suffix)
    return name


def is_readable(path: Path) -> bool:
    """Return whether this Python has the library that a file needs."""
    needs_pyarrow = path.suffix in (".parquet", ".zst")
    return not needs_pyarrow or importlib.util.find_spec("pyarrow") is not None


def entries(path: Path, *, arrays: bool = True) -> Iterator[Entry]:
    """Yield the entries of a file.

    Args:
        path: a file of one of :data:`FORMATS`.
        arrays: whether a JSON array is allowed.

    Raises:
        OSError: the file cannot be opened.
    """
    form = format_of(path)
    try:
        if form == "Parquet":
            yield from _parquet(path)
            return
        with ExitStack() as stack:
            stream = _opened(path, stack)
            if form == "JSON":
                yield from _json(stream, arrays=arrays)
            else:
                yield from _table(stream, form)
    except RequestError as error:
        yield "1", error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield "1", _damaged(error)
    except OSError as error:
        if error.errno is not None:
            raise
        yield "1", _damaged(error)  # pyarrow's


def _damaged(error: Exception) -> RequestError:
    return RequestError(
        f"the compressed file cannot be read to its end: {error}",
        remedy="copy it again; gzip -t or zstd -t checks it",
    )


def _opened(path: Path, stack: ExitStack) -> io.BufferedReader:
    """Return the decompressed bytes of a file; its first bytes tell how it is compressed."""
    plain: Any = stack.enter_context(path.open("rb", buffering=_HEAD))
    magic = plain.peek(4)[:4]
    stream = plain
    suffix = ".gz" if magic.startswith(_GZIP) else ".zst" if magic == _ZSTD else ""
    if suffix and path.suffix != suffix:
        raise RequestError(
            f"the file is compressed, and its name does not end with {suffix}",
            remedy=f"mv {path} {path}{suffix}",
        )
    if suffix == ".gz":
        stream = io.BufferedReader(stack.enter_context(gzip.GzipFile(fileobj=plain)), _HEAD)
    elif suffix:
        import pyarrow

        source = pyarrow.PythonFile(plain, mode="r")
        stream = io.BufferedReader(pyarrow.CompressedInputStream(source, "zstd"), _HEAD)
    elif path.suffix in _COMPRESSED and magic:
        raise RequestError(
            f"the file is not compressed, although its name ends with {path.suffix}",
            remedy=f"mv {path} {path.with_suffix('')}",
        )
    head = stream.peek(512)
    for start, name in _OTHERS.items():
        if head.startswith(start):
            raise RequestError(f"the file is {name}", remedy="unpack it, or export it as CSV")
    if head[257:262] == b"ustar":
        raise RequestError("the file is a tar archive", remedy=f"tar -xf {path}")
    return stream  # type: ignore[no-any-return]


def _json(stream: io.BufferedReader, *, arrays: bool) -> Iterator[Entry]:
    head = stream.peek(_HEAD)
    if head.startswith(_BOM):
        message = "begins with a byte order mark"
        raise RequestError(message, remedy="save it as UTF-8 without one")
    if not json_arrays.starts_array(head):
        for number, line in _lines(stream):
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
            fault = RequestError(error.reason, remedy="write the array as valid JSON")
            yield str(error.line), fault
    else:
        remedy = "write one JSON object a line: jq -c '.[]' FILE"
        raise RequestError("PaddleNLP's own program does not read a JSON array", remedy=remedy)


def _lines(stream: IO[bytes], *, blank: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of every line, the long ones cut; blank ones only if wanted."""
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST_LINE + 1)
        if blank or line.strip():
            yield number, line


def _text(line: bytes) -> str:
    """Return a line as text."""
    if len(line) > LONGEST_LINE:
        raise RequestError(f"the line is longer than {LONGEST_LINE // 1024**2} MiB", remedy=FORMAT)
    if b"\0" in line:
        raise RequestError("contains a null byte", remedy=FORMAT)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"not UTF-8: byte 0x{line[error.start]:02x}", remedy="save it as UTF-8"
        ) from None


def _value(line: bytes) -> Any:
    """Return the JSON value of a line."""
    text = _text(line)
    try:
        return json.loads(text)
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


# ---------------------------------------------------------------------------- tables


def _table(stream: io.BufferedReader, form: str) -> Iterator[Entry]:
    """Yield the rows of a table as objects, with the names of its header as keys.

    A table may begin with a byte order mark: Excel writes one.
    """
    if stream.peek(3).startswith(_BOM):
        stream.read(len(_BOM))
    csv.field_size_limit(LONGEST_LINE)
    current = 0

    def texts() -> Iterator[str]:
        nonlocal current
        for current, line in _lines(stream, blank=True):  # noqa: B007 (read below)
            yield _text(line)

    lines = texts()
    try:
        first = next(lines, "")
        separator = "\t" if form == "TSV" else ";" if ";" in first and "," not in first else ","
        rows = csv.reader(_with_first(first, lines), delimiter=separator, strict=True)
        header = next(rows, [])
        _check_header(header, form)
        while True:
            number = rows.line_num + 1
            row = next(rows, None)
            if row is None:
                return
            if not row:
                continue
            if len(row) != len(header):
                counts = f"{len(row)} fields, and the header has {len(header)}"
                remedy = 'put fields with separators or line breaks into quotes: "a, b"'
                yield str(number), RequestError(f"the row has {counts}", remedy=remedy)
                continue
            yield str(number), dict(zip(header, row, strict=True))
    except csv.Error as error:
        remedy = 'a quote in a quoted field is written twice: "He said ""no"""'
        yield str(current), RequestError(f"not {form}: {error}", remedy=remedy)
    except RequestError as error:
        yield str(current), error


def _with_first(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _check_header(header: list[str], form: str) -> None:
    """Refuse a header whose names do not tell the columns apart."""
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if twice:
        raise RequestError(
            f'the header has "{twice[0]}" twice', remedy="give each column a name of its own"
        )
    if len(header) == 1:
        separator = "tabs" if form == "TSV" else "commas or semicolons"
        raise RequestError(
            f'the header has one column, "{header[0][:40]}"',
            remedy=f"the first line must name the columns, separated by {separator}",
        )


def _parquet(path: Path) -> Iterator[Entry]:
    import pyarrow
    import pyarrow.parquet

    path.open("rb").close()  # an OSError has its number from here
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        message = f"not a complete Parquet file: {str(error).splitlines()[0]}"
        yield f"row {number + 1}", RequestError(message, remedy="copy it again, or write it again")

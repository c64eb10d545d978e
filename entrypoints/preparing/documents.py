"""Parsing of blocks into documents."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from entrypoints.preparing import reading
from entrypoints.preparing.reading import Block

__all__ = ["MAX_REPORTED", "ParsedBlock", "Rules", "documents", "without_repeats"]

MAX_REPORTED = 20  # bad records that are listed; the others are counted
_SAMPLES = 5
_SURROGATE = re.compile("[\ud800-\udfff]")
_SAMPLED_RUN = re.compile(rf"(.)\1{{{_SAMPLES - 1}}}")
_BLANK = re.compile(rb"\n[ \t\r\f\v]*(?=\n)")


@dataclass(frozen=True)
class Rules:
    """Rules for parsing documents.

    Args:
        json_key: the key of the text in a JSON line.
        document: the unit of plain text: ``paragraph``, ``line`` or ``file``.
        longest_repeat: longer runs of one character are reduced to a single one.
    """

    json_key: str = "text"
    document: str = "paragraph"
    longest_repeat: int = 100


@dataclass
class ParsedBlock:
    """The documents of a block.

    Args:
        texts: of the documents, in order, stripped.
        lines: the first line of each.
        reasons: the number of bad records, by reason.
        bad: line and reason of the first :data:`MAX_REPORTED` of them.
    """

    texts: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[int, str]] = field(default_factory=list)

    def reject(self, line: int, reason: str, detail: str = "") -> None:
        """Count a bad record.

        Args:
            line: its first line.
            reason: its category.
            detail: appended to the reason in the report.
        """
        self.reasons[reason] += 1
        self.bad.append((line, f"{reason}{detail}"))
        self.bad.sort()
        del self.bad[MAX_REPORTED:]


class _Bad(ValueError):
    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def documents(block: Block, form: str, rules: Rules) -> ParsedBlock:
    """Return the documents of a block.

    Args:
        block: with complete documents.
        form: the format of the file.
        rules: for parsing.
    """
    batch = ParsedBlock()
    if block.too_long:
        batch.reject(block.line, _too_long())
    for line, data in _records(block, reading.unit(form, rules.document)):
        try:
            if len(data) > reading.LONGEST:
                raise _Bad(_too_long())
            decoded = _decoded(data)
            text = _text(decoded, rules.json_key) if form == "jsonl" else decoded
            text = without_repeats(text, rules.longest_repeat).strip()
            if not text:
                raise _Bad("empty")
        except _Bad as bad:
            batch.reject(line, bad.reason, bad.detail)
        else:
            batch.texts.append(text)
            batch.lines.append(line)
    return batch


def without_repeats(text: str, longest: int) -> str:
    """Return the text with every longer run of one character reduced to a single one.

    This is upstream's rule; runs of newlines are kept. Sampling a few characters of each
    ``longest`` excludes such runs for nearly all texts.

    Args:
        text: any.
        longest: the longest run to keep.
    """
    stride = (longest + 1) // _SAMPLES
    if len(text) <= longest or (stride > 1 and not _SAMPLED_RUN.search(text[::stride])):
        return text
    return re.sub(rf"(.)\1{{{longest},}}", r"\1", text)


def _too_long() -> str:
    return f"longer than {reading.LONGEST // 2**20} MiB"


def _records(block: Block, unit: str) -> Iterator[tuple[int, bytes]]:
    """Yield the line number and the bytes of every nonblank record."""
    if unit != "line":
        pieces = [block.data] if unit == "file" else _paragraphs(block.data)
        line = block.line
        for piece in pieces:
            body = piece.lstrip()
            if body:
                yield line + piece[: len(piece) - len(body)].count(b"\n"), body
            line += piece.count(b"\n")
        return
    for number, data in enumerate(block.data.split(b"\n"), block.line):
        if data.strip():
            yield number, data


def _paragraphs(data: bytes) -> Iterator[bytes]:
    """Yield the parts between blank lines, which together are all bytes."""
    start = 0
    for blank in _BLANK.finditer(data):
        yield data[start : blank.end()]
        start = blank.end()
    yield data[start:]


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig" if data.startswith(b"\xef\xbb\xbf") else "utf-8")
    except UnicodeDecodeError as error:
        raise _Bad("not UTF-8", f": byte 0x{data[error.start]:02x}") from None


def _text(line: str, key: str) -> str:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise _Bad("not JSON", f": {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise _Bad("not JSON", ": nested too deeply") from None
    except ValueError:  # more digits than Python accepts
        raise _Bad("not JSON", ": a number has too many digits") from None
    if not isinstance(entry, dict):
        raise _Bad("not a JSON object")
    if key not in entry:
        keys = ", ".join(list(map(str, entry))[:8])
        raise _Bad(f'no key "{key}"', f"; it has: {keys or 'none'}")
    text = entry[key]
    if not isinstance(text, str):
        raise _Bad(f'"{key}" is not a string')
    if "\\u" in line and _SURROGATE.search(text):
        raise _Bad("an unpaired surrogate")
    return text

"""The comments of the project's own files, as the reasons for the lines that they are about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Line", "lines"]

_OWN = re.compile(r"\s+#\s(?P<why>.*)$")
# For linters, and rules across the page.
_NOT_A_REASON = re.compile(r"^(hadolint |-{3,}|shellcheck )")


@dataclass(frozen=True)
class Line:
    """A line of a file that has comments with ``#``.

    Args:
        number: counted from 1.
        code: what is no comment.
        why: the comment on the line, else the one above it; empty where there is none.
    """

    number: int
    code: str
    why: str


def lines(path: Path, *, groups: bool) -> Iterator[Line]:
    """Yield the lines that are not comments alone.

    Args:
        path: of the file.
        groups: whether a comment is about all lines below it, up to the next one or to an
            empty line; otherwise it is about the next line alone.
    """
    above: list[str] = []
    fresh = False
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        stripped = text.strip()
        if stripped.startswith("#"):
            comment = stripped.lstrip("#").strip()
            if not fresh:
                above, fresh = [], True
            if not _NOT_A_REASON.match(comment):
                above.append(comment)
            continue
        fresh = False
        if not stripped:
            above = []
            continue
        own = _OWN.search(text)
        why = own["why"] if own else " ".join(above)
        yield Line(number, _OWN.sub("", text).strip(), why.strip())
        if not groups:
            above = []

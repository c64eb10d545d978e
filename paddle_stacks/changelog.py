"""``CHANGELOG.md``: changes for users, one section per version (keepachangelog.com)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import RequestError

__all__ = ["NAME", "UNRELEASED", "Section", "read"]

NAME = "CHANGELOG.md"
UNRELEASED = "Unreleased"

_HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>\S+))?\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """The section of a version.

    Args:
        version: ``1.2.0``, or :data:`UNRELEASED`.
        date: ``2025-01-31``; empty if it has none.
        body: the text below its heading, without empty lines around it.
    """

    version: str
    date: str
    body: str


def read(root: Path) -> dict[str, Section]:
    """Return the sections of a checkout's changelog by their versions, the newest first.

    Raises:
        RequestError: it cannot be read.
    """
    path = root / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(
            f"the changelog cannot be read: {error.strerror}",
            where=str(path),
            remedy=f"git checkout {NAME}",
        ) from error
    # The links of the headings are below the last section.
    text = re.split(r"^\[[^\]]+\]: ", text, maxsplit=1, flags=re.MULTILINE)[0]
    headings = list(_HEADING.finditer(text))
    ends = [*(heading.start() for heading in headings), len(text)][1:]
    return {
        heading["version"]: Section(
            heading["version"], heading["date"] or "", text[heading.end() : end].strip()
        )
        for heading, end in zip(headings, ends, strict=True)
    }

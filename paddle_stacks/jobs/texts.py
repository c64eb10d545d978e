"""Texts that every image contains, for pretraining without a network."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import RequestError, did_you_mean

__all__ = ["PREFIX", "TEXTS", "Text", "find"]

PREFIX = "text:"
"""Prefix of a text's name among paths; ``./text:x`` is a file."""

# Tests contain data in all encodings, and tables of code pages are not text.
_LEFT_OUT = frozenset(
    {"dist-packages", "encodings", "idle_test", "site-packages", "test", "tests"},
)


@dataclass(frozen=True)
class Text:
    """A text that comes with the operating system.

    Args:
        name: its name after :data:`PREFIX`.
        title: a description.
        licence: an SPDX identifier.
        files: returns its files in order, one document each; in an image, not on the host.
    """

    name: str
    title: str
    licence: str
    files: Callable[[], Sequence[Path]]


def find(name: str) -> Text:
    """Return the text of that name, which begins with :data:`PREFIX`.

    Raises:
        RequestError: the text does not exist.
    """
    short = name.removeprefix(PREFIX)
    if short in TEXTS:
        return TEXTS[short]
    names = ", ".join(PREFIX + each for each in TEXTS)
    hint = did_you_mean(short, TEXTS)
    raise RequestError(
        f'unknown text "{short}"', where=name, remedy=f"{hint} texts: {names}".strip()
    )


def _modules() -> list[Path]:
    """Return the modules of Python's standard library.

    Debian ships it as libpython3-stdlib and libpython3-minimal. A virtual environment has
    that of its base Python.
    """
    root = Path(sysconfig.get_path("stdlib"))
    # Sorted by their names below the folder, and without links, by which Debian has one module
    # under two names.
    modules = (path for path in root.rglob("*.py") if not path.is_symlink())
    names = sorted(path.relative_to(root).as_posix() for path in modules)
    return [root / name for name in names if _LEFT_OUT.isdisjoint(name.split("/"))]


TEXTS = {
    text.name: text
    for text in (
        Text("python-stdlib", "the modules of Python's standard library", "PSF-2.0", _modules),
    )
}

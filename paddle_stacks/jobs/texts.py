"""Texts that every image has already, by name: something to pretrain on without a network."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import RequestError, did_you_mean

__all__ = ["PREFIX", "TEXTS", "Text", "find"]

PREFIX = "text:"
"""What a named text begins with where a path could stand; ``./text:x`` is a file."""

# Tests hold data in every encoding, and tables of code pages are no text.
_LEFT_OUT = frozenset(
    {"dist-packages", "encodings", "idle_test", "site-packages", "test", "tests"},
)


@dataclass(frozen=True)
class Text:
    """A text that comes with the operating system.

    Args:
        name: what it is called behind :data:`PREFIX`.
        title: what it is.
        licence: an SPDX identifier.
        files: returns its files, a document each, in order; in an image, not on the host.
    """

    name: str
    title: str
    licence: str
    files: Callable[[], Sequence[Path]]


def find(name: str) -> Text:
    """Return the text of that name, which begins with :data:`PREFIX`.

    Raises:
        RequestError: there is none.
    """
    short = name.removeprefix(PREFIX)
    if short in TEXTS:
        return TEXTS[short]
    known = ", ".join(PREFIX + each for each in TEXTS)
    hint = did_you_mean(short, TEXTS)
    raise RequestError(
        f'no text is known as "{short}"', where=name, remedy=f"{hint} known: {known}".strip()
    )


def _modules() -> list[Path]:
    """Return the modules of Python's standard library.

    Debian ships it as libpython3-stdlib and libpython3-minimal. A virtual environment has
    that of the Python it was made with.
    """
    root = Path(sysconfig.get_path("stdlib"))
    # Sorted by their names below the folder, wherever that is.
    # Without links, by which Debian has one module under two names.
    modules = (path for path in root.rglob("*.py") if not path.is_symlink())
    names = sorted(path.relative_to(root).as_posix() for path in modules)
    return [root / name for name in names if _LEFT_OUT.isdisjoint(name.split("/"))]


TEXTS = {
    text.name: text
    for text in (
        Text("python-stdlib", "the modules of Python's standard library", "PSF-2.0", _modules),
    )
}

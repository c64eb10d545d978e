"""Compatibility of DCU drivers and DTK releases, from ``configs/dcu/drivers.toml``."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paddle_stacks import toml
from paddle_stacks.dcu.host import Driver
from paddle_stacks.errors import MachineError, Problem

__all__ = ["TABLE", "Row", "Version", "compatibility_problem", "parse_version", "rows"]

TABLE = Path(__file__).resolve().parents[2] / "configs" / "dcu" / "drivers.toml"

# The last version in the name is the driver's: "rock-5.7.1-6.2.26-V1.5" is driver 6.2.26
# of release 5.7.1. In the vendor's tables a trailing + means "and newer".
_VERSION = re.compile(
    r"(?:rock-(?:\S*[- ])?)?(\d+)\.(\d+)\.(\d+)([a-z]?)\+?(?:-V(\d+(?:\.\d+)*)([a-z]?)\S*)?",
    re.ASCII,
)


@dataclass(frozen=True, order=True)
class Version:
    """A driver version, ordered: ``6.2.17 < 6.2.17a < 6.2.26 < 6.2.26-V1.5 < 6.3.8``.

    Args:
        major: major version.
        minor: minor version; ``major.minor`` is the series.
        patch: patch version.
        letter: the letter after ``patch``, or empty.
        build: the numbers after ``-V``.
        build_letter: the letter after ``build``, or empty.
    """

    major: int
    minor: int
    patch: int
    letter: str = ""
    build: tuple[int, ...] = ()
    build_letter: str = ""

    @property
    def series(self) -> str:
        """The driver series, ``6.2``; drivers of a series mostly support the same DTKs."""
        return f"{self.major}.{self.minor}"

    def __str__(self) -> str:
        """Return the version as the kernel module reports it."""
        build = ".".join(map(str, self.build))
        tail = f"-V{build}{self.build_letter}" if build else ""
        return f"{self.series}.{self.patch}{self.letter}{tail}"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        version: the first driver version that the row covers.
        cards: the card types that the driver supports.
        dtk: the compatible DTK releases, ``YY.MM``.
        source: where the row comes from.
    """

    version: Version
    cards: tuple[str, ...]
    dtk: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class _Failure:
    series: str
    dtk: tuple[str, ...]
    reason: str
    source: str


def parse_version(text: str) -> Version:
    """Parse a version as a kernel module, a package or a vendor's table writes it.

    Raises:
        MachineError: not the version of a DCU driver.
    """
    match = _VERSION.fullmatch(text.strip())
    if not match:
        raise MachineError(
            f'"{text.strip()[:80]}" is not the version of a DCU driver',
            remedy="check lsmod | grep -E 'hycu|hydcu'; expected e.g. 6.2.17a or 6.3.31-V1.5.0a",
        )
    major, minor, patch, letter, build, build_letter = match.groups()
    numbers = tuple(int(part) for part in build.split(".")) if build else ()
    return Version(int(major), int(minor), int(patch), letter, numbers, build_letter or "")


def rows() -> tuple[Row, ...]:
    """Return the rows of the table, oldest driver first."""
    return _table()[0]


def compatibility_problem(driver: Driver, dtk: str, cards: Collection[str] = ()) -> Problem | None:
    """Check a driver against the DTK of an image.

    Args:
        driver: the host's driver.
        dtk: the image's DTK, ``24.04.1``.
        cards: names of the host's cards, which a recommended driver must support; empty
            if unknown.

    Returns:
        None if they are compatible, or if the DTK is newer than the table.
    """
    where = f"/sys/module/{driver.module}/version"
    try:
        version = parse_version(driver.version)
    except MachineError as error:
        return Problem(error.problems[0].what, where, error.problems[0].remedy)
    table, failures = _table()
    release = ".".join(dtk.split(".")[:2])
    row = _row_for(version, table)
    if release in row.dtk or release > max(max(row.dtk) for row in table):
        return None
    message = f"driver {version} ({driver.module}) is not compatible with DTK {dtk}"
    failure = next((f for f in failures if f.series == version.series and release in f.dtk), None)
    if failure:
        return Problem(
            f"{message}: {failure.reason} ({failure.source})", where, _remedy(release, cards)
        )
    supported = ", ".join(row.dtk)
    return Problem(
        f"{message}: it supports DTK {supported} ({row.source})", where, _remedy(release, cards)
    )


def _row_for(version: Version, table: tuple[Row, ...]) -> Row:
    """Return the nearest row, from the version's own series if the table has it."""
    series = [row for row in table if row.version.series == version.series]
    older = [row for row in series or table if row.version <= version]
    return older[-1] if older else (series or table)[0]


def _remedy(release: str, cards: Collection[str]) -> str:
    for_cards = [row for row in rows() if set(cards) <= set(row.cards)]
    compatible = [row for row in for_cards if release in row.dtk]
    if for_cards and not compatible and cards:
        releases = ", ".join(sorted({dtk for row in for_cards for dtk in row.dtk}))
        return (
            f"no known driver for DTK {release} supports {', '.join(sorted(cards))}: use images "
            f"with DTK {releases} (dtk_image) and a matching Paddle; or other cards"
        )
    if not compatible:
        return "use an image with a DTK that configs/dcu/drivers.toml lists for this driver"
    series = sorted({row.version.series for row in compatible})
    sources = "; ".join(f"{row.version}: {row.source}" for row in compatible)
    return (
        f"install a driver of the {' or '.join(series)} series, which supports DTK {release} "
        f"({sources})"
    )


@cache
def _table() -> tuple[tuple[Row, ...], tuple[_Failure, ...]]:
    table = toml.read(TABLE)
    entries = [
        Row(
            parse_version(entry["version"]),
            tuple(entry["cards"]),
            tuple(entry["dtk"]),
            entry["source"],
        )
        for entry in table["driver"]
    ]
    failures = tuple(_failure(entry) for entry in table.get("failure", []))
    return tuple(sorted(entries, key=lambda row: row.version)), failures


def _failure(entry: dict[str, Any]) -> _Failure:
    return _Failure(entry["series"], tuple(entry["dtk"]), entry["reason"], entry["source"])

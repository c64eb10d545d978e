"""Which driver goes with which DTK: the table in ``configs/dcu/drivers.toml``."""

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

__all__ = ["TABLE", "Row", "Version", "fits", "parse_version", "rows"]

TABLE = Path(__file__).resolve().parents[2] / "configs" / "dcu" / "drivers.toml"

# The driver's own version is the last one: "rock-5.7.1-6.2.26-V1.5" is driver 6.2.26
# of release 5.7.1. A trailing + is the vendor's way of saying "and newer".
_VERSION = re.compile(
    r"(?:rock-(?:\S*[- ])?)?(\d+)\.(\d+)\.(\d+)([a-z]?)\+?(?:-V(\d+(?:\.\d+)*)([a-z]?)\S*)?",
    re.ASCII,
)


@dataclass(frozen=True, order=True)
class Version:
    """A driver's version, comparable: ``6.2.17 < 6.2.17a < 6.2.26 < 6.2.26-V1.5 < 6.3.8``.

    Args:
        major: of the driver.
        minor: of the driver; with ``major`` it names the series.
        patch: of the driver.
        letter: behind it, or empty.
        build: the numbers behind ``-V``.
        build_letter: behind those, or empty.
    """

    major: int
    minor: int
    patch: int
    letter: str = ""
    build: tuple[int, ...] = ()
    build_letter: str = ""

    @property
    def series(self) -> str:
        """``6.2``: what is said of one of a series mostly holds for the others."""
        return f"{self.major}.{self.minor}"

    def __str__(self) -> str:
        """Return it as the driver's module says it."""
        build = ".".join(map(str, self.build))
        tail = f"-V{build}{self.build_letter}" if build else ""
        return f"{self.series}.{self.patch}{self.letter}{tail}"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        version: the first driver that it is about.
        cards: the cards that the driver runs.
        dtk: the DTK releases it goes with, ``YY.MM``.
        source: who says so.
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
    """Return the version that a driver, its package or a table calls itself.

    Raises:
        MachineError: it is not the version of a DCU driver.
    """
    match = _VERSION.fullmatch(text.strip())
    if not match:
        raise MachineError(
            f'"{text.strip()[:80]}" is not the version of a DCU driver',
            remedy="see lsmod | grep -E 'hycu|hydcu'; versions look like 6.2.17a or 6.3.31-V1.5.0a",
        )
    major, minor, patch, letter, build, build_letter = match.groups()
    numbers = tuple(int(part) for part in build.split(".")) if build else ()
    return Version(int(major), int(minor), int(patch), letter, numbers, build_letter or "")


def rows() -> tuple[Row, ...]:
    """Return the table, the oldest driver first."""
    return _table()[0]


def fits(driver: Driver, dtk: str, cards: Collection[str] = ()) -> Problem | None:
    """Say what is wrong with a driver under a DTK's user land.

    Args:
        driver: the host's.
        dtk: the image's DTK, ``24.04.1``.
        cards: the names of the host's cards, which a driver that is advised has to run; empty
            where they are not known.

    Returns:
        None where they go together, or where the DTK is newer than the table.
    """
    where = f"/sys/module/{driver.module}/version"
    try:
        version = parse_version(driver.version)
    except MachineError as error:
        return Problem(error.problems[0].what, where, error.problems[0].remedy)
    table, failures = _table()
    release = ".".join(dtk.split(".")[:2])
    row = _row_for(version, table)
    if release in row.dtk or release > max(max(known.dtk) for known in table):
        return None
    said = f"driver {version} ({driver.module}) does not go with DTK {dtk}"
    failure = next((f for f in failures if f.series == version.series and release in f.dtk), None)
    if failure:
        return Problem(
            f"{said}: {failure.reason} ({failure.source})", where, _remedy(release, cards)
        )
    known = ", ".join(row.dtk)
    return Problem(
        f"{said}: it is known with DTK {known} ({row.source})", where, _remedy(release, cards)
    )


def _row_for(version: Version, table: tuple[Row, ...]) -> Row:
    """Return the nearest row: of the version's own series where there is one."""
    series = [row for row in table if row.version.series == version.series]
    older = [row for row in series or table if row.version <= version]
    return older[-1] if older else (series or table)[0]


def _remedy(release: str, cards: Collection[str]) -> str:
    fitting = [row for row in rows() if set(cards) <= set(row.cards)]
    good = [row for row in fitting if release in row.dtk]
    if fitting and not good and cards:
        releases = ", ".join(sorted({known for row in fitting for known in row.dtk}))
        return (
            f"no driver for DTK {release} is known to run {', '.join(sorted(cards))}: use images "
            f"with DTK {releases} (dtk_image), and a Paddle that goes with it; or other cards"
        )
    if not good:
        return "use an image whose DTK is in configs/dcu/drivers.toml with this driver"
    series = sorted({row.version.series for row in good})
    named = "; ".join(f"{row.version}: {row.source}" for row in good)
    return (
        f"install a driver of the {' or '.join(series)} series, which DTK {release} is known "
        f"with ({named})"
    )


@cache
def _table() -> tuple[tuple[Row, ...], tuple[_Failure, ...]]:
    table = toml.read(TABLE)
    found = [
        Row(
            parse_version(entry["version"]),
            tuple(entry["cards"]),
            tuple(entry["dtk"]),
            entry["source"],
        )
        for entry in table["driver"]
    ]
    failures = tuple(_failure(entry) for entry in table.get("failure", []))
    return tuple(sorted(found, key=lambda row: row.version)), failures


def _failure(entry: dict[str, Any]) -> _Failure:
    return _Failure(entry["series"], tuple(entry["dtk"]), entry["reason"], entry["source"])

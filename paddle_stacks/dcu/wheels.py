"""DCU wheels of Paddle, and the wheels, DTKs and drivers that others ran together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paddle_stacks import toml
from paddle_stacks.dcu import driver
from paddle_stacks.dcu.host import Driver

__all__ = ["Combination", "Wheel", "combinations", "current", "find", "matching"]

_ROOT = Path(__file__).resolve().parents[2]
_FOLDER = _ROOT / "configs" / "dcu"


@dataclass(frozen=True)
class Wheel:
    """A version of ``paddlepaddle-dcu``.

    Args:
        version: the version, ``3.0.0b2``.
        dtk: DTK releases that it works on, ``YY.MM``.
        library: the first library that it loads.
        architectures: architectures of the cards that it has code for.
        no_dtypes: number formats that its DCU kernels lack: ``bf16``, ``fp8``.
        source: where this comes from.
    """

    version: str
    dtk: tuple[str, ...]
    library: str
    architectures: tuple[str, ...]
    no_dtypes: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Combination:
    """A report about wheels on a DTK.

    Args:
        wheels: versions of ``paddlepaddle-dcu``.
        dtk: DTK releases, ``YY.MM.PATCH``.
        architectures: architectures of the cards.
        drivers: driver series, ``6.3``; empty for every driver that supports the DTK.
        works: whether it is about a success.
        result: what ran, or how it failed.
        source: the report.
        image: an image with this combination; empty if none is published.
    """

    wheels: tuple[str, ...]
    dtk: tuple[str, ...]
    architectures: tuple[str, ...]
    drivers: tuple[str, ...]
    works: bool
    result: str
    source: str
    image: str = ""

    def __str__(self) -> str:
        """Return the wheels and the DTK: ``3.2.1 or 3.3.1 on DTK 25.04.2``."""
        versions = (
            self.wheels if len(self.wheels) < 3 else (f"{self.wheels[0]} … {self.wheels[-1]}",)
        )
        return f"{' or '.join(versions)} on DTK {' or '.join(self.dtk)}"


def current() -> Wheel | None:
    """Return the wheel that the images install; None if the table does not have it."""
    from paddle_stacks.build.variables import paddle_version

    return find(paddle_version(_ROOT))


def find(version: str) -> Wheel | None:
    """Return the wheel of a version, or None."""
    return _wheels().get(version)


@cache
def combinations() -> tuple[Combination, ...]:
    """Return all reports, in the order of the table."""
    table = toml.read(_FOLDER / "combinations.toml")
    return tuple(Combination(**_tuples(entry)) for entry in table["combination"])


def matching(host_driver: Driver, architectures: Collection[str]) -> tuple[Combination, ...]:
    """Return the reports that apply to a host's driver and to all of its cards.

    Args:
        host_driver: the host's driver.
        architectures: architectures of the host's cards.
    """
    return tuple(
        report
        for report in combinations()
        if set(architectures) <= set(report.architectures) and _has_driver(report, host_driver)
    )


def _has_driver(report: Combination, host_driver: Driver) -> bool:
    if report.drivers:
        series = ".".join(host_driver.version.split("-")[0].split(".")[:2])
        return series in report.drivers
    return any(driver.compatibility_problem(host_driver, dtk) is None for dtk in report.dtk)


@cache
def _wheels() -> dict[str, Wheel]:
    table = toml.read(_FOLDER / "wheels.toml")
    return {version: Wheel(version, **_tuples(entry)) for version, entry in table.items()}


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}

"""Ranges of numbers, for options and for the keys of a configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Range"]


@dataclass(frozen=True)
class Range:
    """A range of finite numbers.

    Args:
        low: the smallest number in it; None for no limit.
        high: the largest number in it; None for no limit.
        above: all numbers in it are greater; None for no limit.
        below: all numbers in it are less; None for no limit.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"in {_text(self.low)} … {_text(self.high)}"
        limits = (
            ("at least", self.low),
            ("greater than", self.above),
            ("at most", self.high),
            ("less than", self.below),
        )
        parts = [f"{words} {_text(limit)}" for words, limit in limits if limit is not None]
        return " and ".join(parts) or "finite"


def _text(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"

"""Rate limit."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["RateLimit"]


class RateLimit:
    """Token bucket per client.

    After an idle minute, a client may send a minute's requests at once.

    Args:
        per_minute: requests; 0 for no limit.
        clock: returns seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # remaining requests and their time

    def take(self, name: str) -> int:
        """Count a request; return 0, or the seconds until the next one is allowed."""
        if not self._per_minute:
            return 0
        now = self._clock()
        left, then = self._buckets.get(name, (float(self._per_minute), now))
        left = min(left + (now - then) * self._per_minute / 60, float(self._per_minute))
        if left < 1:
            return math.ceil((1 - left) * 60 / self._per_minute)
        self._buckets[name] = (left - 1, now)
        return 0

"""Uvicorn's connection with a timeout for request headers.

Uvicorn closes idle connections after a response, but waits forever for the first request, and
for the rest of incomplete headers. Lost or malicious clients would keep their connections.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEADER_SECONDS", "Connection"]

HEADER_SECONDS = 20.0
"""Timeout for a request's headers, from the connection or from their first byte."""


class Connection(H11Protocol):
    """A connection with a timeout for request headers."""

    header_seconds = HEADER_SECONDS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiting: asyncio.TimerHandle | None = None
        # Every request's state is a copy of this one.
        self.app_state = {**self.app_state, "abort": self._abort}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Process received data."""
        if self._waiting is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()  # the beginning of another request
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.header_seconds, self._abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _abort(self) -> None:
        self.transport.abort()

"""The engine: a thread that computes the answers."""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from entrypoints.inference.protocols import LanguageModel
from entrypoints.inference.text import Text
from entrypoints.runtime.console import warn
from entrypoints.serving.metrics import Metrics
from entrypoints.serving.request import Request
from entrypoints.serving.scheduler import Scheduler, SchedulerConfig, describe

__all__ = ["Draining", "Engine", "Full"]


class Full(Exception):
    """The queue is full.

    Args:
        retry_after: seconds until a new attempt is worthwhile.
    """

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"queue full, retry in {retry_after} s")


class Draining(Exception):
    """The engine finishes running requests and accepts no new ones."""


class Engine:
    """Computes answers until it is stopped.

    A fault in a step ends the running requests; the engine continues with the waiting ones.

    Args:
        network: the model.
        text: its tokenizer, used by this thread only.
        config: the limits of the scheduler.
        metrics: updated.
        clock: returns seconds.
    """

    def __init__(
        self,
        network: LanguageModel,
        text: Text,
        config: SchedulerConfig,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._config = config
        self._scheduler = Scheduler(network, text, config, metrics, clock)
        self._changed = threading.Condition()
        self._draining = False
        self._stopping = False
        self._seconds_per_request = 1.0  # moving average
        self._busy = 0.0  # seconds of computation since the last request ended
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Return whether the thread is running."""
        return self._thread.is_alive()

    @property
    def draining(self) -> bool:
        """Return whether new requests are rejected."""
        return self._draining

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue the prompts of an HTTP request.

        Raises:
            Full: too many requests are waiting, of all clients or of this one.
            Draining: the server is shutting down.
        """
        with self._changed:
            if self._draining or self._stopping:
                raise Draining
            self._check_queue(requests[0].client)
            for request in requests:
                request.arrived = self.clock()
            self._scheduler.waiting.add(requests)
            self._changed.notify()

    def _check_queue(self, client: str) -> None:
        config, free = self._config, self._free_seqs()
        total = self._scheduler.waiting.requests()
        own = self._scheduler.waiting.requests(client)
        full = total >= config.max_waiting + free
        if config.max_waiting_per_client:
            # A client without waiting requests can always add one.
            full = own >= config.max_waiting_per_client + free or (full and own > 0)
        if full:
            raise Full(self._retry_after(total + 1))

    def cancel(self, requests: Sequence[Request]) -> None:
        """Cancel requests; ended ones are ignored."""
        with self._changed:
            for request in requests:
                request.cancelled = True
            self._changed.notify()

    def drain(self) -> None:
        """Reject new requests from now on."""
        with self._changed:
            self._draining = True

    def stop(self, timeout: float = 10.0) -> None:
        """End all requests and the thread."""
        with self._changed:
            self._draining = self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    def _free_seqs(self) -> int:
        return max(self._config.max_num_seqs - self._scheduler.used_seqs, 0)

    def _retry_after(self, waiting: int) -> int:
        """Return the estimated seconds until the queue has room."""
        ahead = max(waiting - self._config.max_waiting, 1)
        return max(1, min(math.ceil(ahead * self._seconds_per_request), 60))

    def _run(self) -> None:
        while self._wait_for_work():
            start_time, ended = self.clock(), self._scheduler.ended
            try:
                self._scheduler.step()
            except Exception as error:
                # Any error of the model: the waiting requests may still succeed.
                warn(f"a step of the engine failed:\n{traceback.format_exc()}")
                self._scheduler.fail("fault", describe(error))
            self._update_average(self._scheduler.ended - ended, self.clock() - start_time)
        self._scheduler.fail("stopped")
        self._scheduler.fail_waiting("stopped")

    def _update_average(self, ended: int, seconds: float) -> None:
        self._busy += seconds
        if ended:
            self._seconds_per_request += 0.2 * (self._busy / ended - self._seconds_per_request)
            self._busy = 0.0

    def _wait_for_work(self) -> bool:
        """Wait until there is work; return false to stop."""
        with self._changed:
            while not self._stopping and self._scheduler.idle:
                self._changed.wait()
            return not self._stopping

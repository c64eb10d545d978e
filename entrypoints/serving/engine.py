"""The one thread that computes; everybody else hands it work and listens."""

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
from entrypoints.serving.scheduler import Scheduler, Space, describe
from entrypoints.serving.work import Work

__all__ = ["Draining", "Engine", "Full"]


class Full(Exception):
    """As much waits as may wait.

    Args:
        retry_after: seconds after which it is worth another try.
    """

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"full, again in {retry_after} s")


class Draining(Exception):
    """What is under way is finished, and nothing new is begun."""


class Engine:
    """Computes answers until it is stopped.

    A fault in a round ends the works that were under way, and the engine goes on with
    those that wait.

    Args:
        network: the model.
        text: its tokenizer, which this thread has for itself.
        space: what there is room for.
        metrics: is told what happens.
        clock: seconds from any beginning.
    """

    def __init__(
        self,
        network: LanguageModel,
        text: Text,
        space: Space,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._space = space
        self._scheduler = Scheduler(network, text, space, metrics, clock)
        self._news = threading.Condition()
        self._draining = False
        self._stopping = False
        self._seconds_per_work = 1.0  # of late
        self._busy = 0.0  # seconds of work since a work has ended
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self._draining

    def submit(self, works: Sequence[Work]) -> None:
        """Hand in the works of a request.

        Raises:
            Full: too many requests wait, of all clients or of this one.
            Draining: the server is about to end.
        """
        with self._news:
            if self._draining or self._stopping:
                raise Draining
            self._check_queue(works[0].client)
            for work in works:
                work.arrived = self.clock()
            self._scheduler.waiting.add(works)
            self._news.notify()

    def _check_queue(self, client: str) -> None:
        space, free = self._space, self._free_places()
        total = self._scheduler.waiting.requests()
        own = self._scheduler.waiting.requests(client)
        full = total >= space.waiting + free
        if space.waiting_per_client:
            # A client without a request in the queue can always add one.
            full = own >= space.waiting_per_client + free or (full and own > 0)
        if full:
            raise Full(self._patience(total + 1))

    def cancel(self, works: Sequence[Work]) -> None:
        """Let go of works; those that have ended do not mind."""
        with self._news:
            for work in works:
                work.cancelled = True
            self._news.notify()

    def drain(self) -> None:
        """Take nothing new from now on."""
        with self._news:
            self._draining = True

    def stop(self, timeout: float = 10.0) -> None:
        """End what is under way, and the thread."""
        with self._news:
            self._draining = self._stopping = True
            self._news.notify()
        self._thread.join(timeout)

    def _free_places(self) -> int:
        return max(self._space.places - self._scheduler.taken, 0)

    def _patience(self, waiting: int) -> int:
        """Return a guess at the seconds until a place in the queue is free."""
        ahead = max(waiting - self._space.waiting, 1)
        return max(1, min(math.ceil(ahead * self._seconds_per_work), 60))

    def _run(self) -> None:
        while self._wait_for_news():
            begun, ended = self.clock(), self._scheduler.ended
            try:
                self._scheduler.round()
            except Exception as error:
                # Whatever a model or its memory can do: others wait, and may have more luck.
                warn(f"a round of the engine failed:\n{traceback.format_exc()}")
                self._scheduler.fail("fault", describe(error))
            self._learn(self._scheduler.ended - ended, self.clock() - begun)
        self._scheduler.fail("stopped")
        self._scheduler.fail_waiting("stopped")

    def _learn(self, ended: int, seconds: float) -> None:
        self._busy += seconds
        if ended:
            self._seconds_per_work += 0.2 * (self._busy / ended - self._seconds_per_work)
            self._busy = 0.0

    def _wait_for_news(self) -> bool:
        """Take in what has come; wait for it if there is nothing else to do."""
        with self._news:
            while not self._stopping and self._scheduler.idle:
                self._news.wait()
            return not self._stopping

"""The queue of requests that wait for the engine: clients take turns."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable

from entrypoints.serving.work import Work

__all__ = ["RequestQueue"]


class RequestQueue:
    """Requests in the order they came, one of each client in turn.

    A client with a hundred requests delays another client's next one by one request, not by a
    hundred. A request with a list of prompts is one request, whose prompts follow each other.

    Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, deque[deque[Work]]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        """Return the number of prompts that wait."""
        return self._length

    def add(self, works: Iterable[Work]) -> None:
        """Add a request, as the works of its prompts."""
        request = deque(works)
        if not request:
            return
        with self._lock:
            self._clients.setdefault(request[0].client, deque()).append(request)
            self._length += len(request)

    def append(self, work: Work) -> None:
        """Add a request with one prompt."""
        self.add([work])

    def extend(self, works: Iterable[Work]) -> None:
        """Add requests with one prompt each."""
        for work in works:
            self.append(work)

    def requests(self, client: str | None = None) -> int:
        """Return the number of requests that wait, of all clients or of one."""
        with self._lock:
            if client is not None:
                return len(self._clients.get(client, ()))
            return sum(map(len, self._clients.values()))

    def peek(self) -> Work | None:
        """Return the next prompt; None if none waits."""
        with self._lock:
            for requests in self._clients.values():
                return requests[0][0]
            return None

    def pop(self) -> Work:
        """Remove the next prompt and return it; the turn goes to the next client."""
        with self._lock:
            client, requests = next(iter(self._clients.items()))
            work = requests[0].popleft()
            self._length -= 1
            if not requests[0]:
                requests.popleft()
            if requests:
                self._clients.move_to_end(client)
            else:
                del self._clients[client]
            return work

    def pop_ended(self, now: float) -> list[Work]:
        """Remove the requests that were cancelled or are late, and return their works."""
        ended: list[Work] = []
        with self._lock:
            for client, requests in list(self._clients.items()):
                # The works of a request are cancelled together, and have one deadline.
                late = [r for r in requests if r[0].cancelled or now >= r[0].deadline]
                if not late:
                    continue
                ended += (work for request in late for work in request)
                left = deque(request for request in requests if request not in late)
                if left:
                    self._clients[client] = left
                else:
                    del self._clients[client]
            self._length -= len(ended)
        return ended

    def clear(self) -> list[Work]:
        """Remove everything and return it."""
        with self._lock:
            works = [w for requests in self._clients.values() for r in requests for w in r]
            self._clients.clear()
            self._length = 0
        return works

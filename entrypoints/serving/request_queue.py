"""The queue of waiting requests, with one request of each client in turn."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable

from entrypoints.serving.request import Request

__all__ = ["RequestQueue"]


class RequestQueue:
    """Waiting requests in the order of arrival, one of each client in turn.

    A client with a hundred requests delays another client's next one by one request, not by a
    hundred. The prompts of one HTTP request stay together and count as one.

    All methods are thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, deque[deque[Request]]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        """Return the number of waiting prompts."""
        return self._length

    def add(self, prompts: Iterable[Request]) -> None:
        """Add the prompts of one HTTP request."""
        request = deque(prompts)
        if not request:
            return
        with self._lock:
            self._clients.setdefault(request[0].client, deque()).append(request)
            self._length += len(request)

    def append(self, prompt: Request) -> None:
        """Add a request with one prompt."""
        self.add([prompt])

    def extend(self, prompts: Iterable[Request]) -> None:
        """Add requests with one prompt each."""
        for prompt in prompts:
            self.append(prompt)

    def requests(self, client: str | None = None) -> int:
        """Return the number of waiting HTTP requests, of all clients or of one."""
        with self._lock:
            if client is not None:
                return len(self._clients.get(client, ()))
            return sum(map(len, self._clients.values()))

    def peek(self) -> Request | None:
        """Return the next prompt, or None."""
        with self._lock:
            for requests in self._clients.values():
                return requests[0][0]
            return None

    def pop(self) -> Request:
        """Remove and return the next prompt; then it is the next client's turn."""
        with self._lock:
            client, requests = next(iter(self._clients.items()))
            prompt = requests[0].popleft()
            self._length -= 1
            if not requests[0]:
                requests.popleft()
            if requests:
                self._clients.move_to_end(client)
            else:
                del self._clients[client]
            return prompt

    def pop_ended(self, now: float) -> list[Request]:
        """Remove and return the prompts that were cancelled or are past their deadline."""
        ended: list[Request] = []
        with self._lock:
            for client, requests in list(self._clients.items()):
                # The prompts of a request are cancelled together and have one deadline.
                late = [r for r in requests if r[0].cancelled or now >= r[0].deadline]
                if not late:
                    continue
                ended += (prompt for request in late for prompt in request)
                left = deque(request for request in requests if request not in late)
                if left:
                    self._clients[client] = left
                else:
                    del self._clients[client]
            self._length -= len(ended)
        return ended

    def clear(self) -> list[Request]:
        """Remove and return all prompts."""
        with self._lock:
            prompts = [w for requests in self._clients.values() for r in requests for w in r]
            self._clients.clear()
            self._length = 0
        return prompts

"""A request from its parsed body to its answers: encoding, the engine, and giving up."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from entrypoints.serving.answers import Answer, Chat, Completion, Header, TokenBytes, usage_of
from entrypoints.serving.asking import Bounds, Encoder, works
from entrypoints.serving.engine import Draining, Engine, Full
from entrypoints.serving.errors import ApiError
from entrypoints.serving.requests import ChatRequest, CompletionRequest
from entrypoints.serving.work import Failed, Failure, Piece, Work

__all__ = ["Conversation", "Service", "as_api_error"]

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")

_WHILE_DRAINING = "the server is about to end, and takes nothing new"


@dataclass(frozen=True)
class Service:
    """What answers requests.

    Args:
        engine: computes.
        encoder: makes tokens; for one thread at a time.
        bounds: what is accepted.
        token_bytes: returns a token's bytes.
        model: the model's name.
        created: seconds since 1970 when it was loaded.
        fingerprint: of the weights.
    """

    engine: Engine
    encoder: Encoder
    bounds: Bounds
    token_bytes: TokenBytes
    model: str
    created: int
    fingerprint: str
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="encoder")
    )

    async def begin(self, asked: ChatRequest | CompletionRequest) -> Conversation:
        """Hand a request to the engine.

        Raises:
            ApiError: 400, it cannot be answered; 404, for another model; 429, too much
                waits; 503, the server is about to end.
        """
        if asked.model != self.model:
            raise ApiError(
                404,
                f'there is no model "{asked.model}" here: it is "{self.model}"',
                param="model",
                code="model_not_found",
            )
        if self.engine.draining:
            raise ApiError(503, _WHILE_DRAINING, headers={"Retry-After": "5"})
        if isinstance(asked, ChatRequest):
            prompts = [await self._in_thread(self.encoder.chat, asked)]
        else:
            prompts = await self._in_thread(self.encoder.completions, asked)
        return self._submit(asked, prompts)

    async def _in_thread(self, function: Callable[[_Given], _Made], given: _Given) -> _Made:
        # A thread of its own, and one only: tokenizers are not made for several.
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, given)

    def _submit(
        self, asked: ChatRequest | CompletionRequest, prompts: list[list[int]]
    ) -> Conversation:
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[tuple[int, Piece | Failure] | None] = asyncio.Queue()

        def listen(number: int, said: Piece | Failure) -> None:
            # The loop may be closed where the server has given up on the engine.
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.put_nowait, (number, said))

        made = works(asked, prompts, self.bounds, self.engine.clock(), listen)
        try:
            self.engine.submit(made)
        except Full as full:
            raise ApiError(
                429,
                f"too many requests wait: try again in {full.retry_after} s",
                code="queue_full",
                headers={"Retry-After": str(full.retry_after)},
            ) from None
        except Draining:
            raise ApiError(503, _WHILE_DRAINING, headers={"Retry-After": "5"}) from None
        return Conversation(self, asked, made, news)

    def header(self, kind: str) -> Header:
        """Return what the objects of a new response begin with."""
        name = f"{kind}-{secrets.token_hex(12)}"
        return Header(name, int(time.time()), self.model, self.fingerprint)


class Conversation:
    """A request that the engine has, and what comes of it.

    Attributes:
        answers: as far as they have come.
        prompt_tokens: of all its prompts.
        failed: why it did not end well: a failure's kind, ``gone`` (the client left), or empty.
    """

    def __init__(
        self,
        service: Service,
        asked: ChatRequest | CompletionRequest,
        made: Sequence[Work],
        news: asyncio.Queue[tuple[int, Piece | Failure] | None],
    ) -> None:
        self._service = service
        self._asked = asked
        self._works = made
        self._news = news
        self._count = made[0].count
        self.answers = [Answer() for _ in range(len(made) * self._count)]
        self.prompt_tokens = sum(len(work.prompt) for work in made)
        self.failed = ""
        objects = Chat if isinstance(asked, ChatRequest) else Completion
        kind = "chatcmpl" if isinstance(asked, ChatRequest) else "cmpl"
        self._objects: Chat | Completion = objects(
            service.header(kind), service.token_bytes, asked.likeliest
        )

    @property
    def usage(self) -> dict[str, int]:
        """How many tokens it took so far."""
        return usage_of(self.prompt_tokens, self.answers)

    def leave(self) -> None:
        """Take note that the client has left."""
        self._news.put_nowait(None)

    def let_go(self) -> None:
        """Tell the engine that nobody wants the answers any more; it minds no end."""
        self._service.engine.cancel(self._works)

    async def whole(self) -> dict[str, Any] | None:
        """Return the response, or None if the client has left.

        Raises:
            ApiError: it failed.
        """
        try:
            async for index, piece in self._pieces():
                self.answers[index].add(piece)
        except Failed as failed:
            raise as_api_error(failed.failure) from None
        return None if self.failed else self._objects.whole(self.answers, self.usage)

    async def stream(self) -> AsyncIterator[dict[str, Any] | None]:
        """Yield the objects of a stream, then None if it came to its end.

        The first is yielded when the first news are there.

        Raises:
            ApiError: it failed.
        """
        usage = self._asked.usage_in_stream
        begun: set[int] = set()
        try:
            async for index, piece in self._pieces():
                made = []
                if index not in begun:
                    begun.add(index)
                    made += [first] if (first := self._objects.first(index)) else []
                made += self._objects.chunks(index, piece, self.answers[index])
                self.answers[index].add(piece)
                for chunk in made:
                    yield {**chunk, "usage": None} if usage else chunk
        except Failed as failed:
            raise as_api_error(failed.failure) from None
        if self.failed:
            return
        if usage:
            yield self._objects.usage(self.usage)
        yield None

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Yield the news of every answer by its number, until all have ended."""
        left = len(self.answers)
        while left:
            news = await self._news.get()
            if news is None:
                self.failed = "gone"
                return
            number, said = news
            if isinstance(said, Failure):
                self.failed = said.kind
                raise Failed(said)
            left -= bool(said.finish_reason)
            yield number * self._count + said.index, said


def as_api_error(failure: Failure) -> ApiError:
    """Return what a client is told of a failure."""
    if failure.kind == "timeout" and not failure.started:
        what = "the request's time was over before it was its turn"
        return ApiError(503, what, code="timeout", headers={"Retry-After": "10"})
    if failure.kind == "timeout":
        return ApiError(504, "the request's time was over before its answer", code="timeout")
    if failure.kind == "stopped":
        return ApiError(503, "the server ended before the answer did", code="stopped")
    return ApiError(500, "the engine failed; the server's log says how", code="engine_failed")

"""A request from its body to its answers: parsing, encoding, the engine, and giving up."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from entrypoints.serving.answers import Answer, Chat, Completion, Echo, Header, TokenBytes, usage_of
from entrypoints.serving.engine import Draining, Engine, Full
from entrypoints.serving.errors import ApiError
from entrypoints.serving.preprocess import Bounds, EncodedPrompt, Encoder, make_works
from entrypoints.serving.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Parsed,
    TokenizeRequest,
    parse,
)
from entrypoints.serving.work import Failed, Failure, Piece, PromptLogprobs, Work

__all__ = ["Conversation", "Service", "as_api_error"]

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

_MAX_NAMED_FIELDS = 1000
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
    # A thread each: tokenizers are not made for several, and of bodies one at a time is
    # parsed, so that several large ones do not take their memory together.
    _encoding: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="encoder")
    )
    _parsing: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="parser")
    )
    _named: set[str] = field(default_factory=set)

    async def parse(self, body: bytes, kind: type[Parsed]) -> tuple[Parsed, list[str]]:
        """Return a request, and its unknown fields that no request had before.

        Raises:
            ApiError: 400, see :func:`entrypoints.serving.requests.parse`.
        """
        loop = asyncio.get_running_loop()
        request, unknown = await loop.run_in_executor(self._parsing, parse, body, kind)
        news = [name for name in unknown if name not in self._named]
        if len(self._named) < _MAX_NAMED_FIELDS:
            self._named.update(news)
        return request, news

    async def begin(
        self, request: ChatRequest | CompletionRequest, client: str = ""
    ) -> Conversation:
        """Hand a request to the engine.

        Args:
            request: the request.
            client: the name of the client's key; empty without keys.

        Raises:
            ApiError: 400, it cannot be answered; 404, for another model; 429, too much
                waits; 503, the server is about to end.
        """
        self._check_model(request.model)
        if self.engine.draining:
            raise ApiError(503, _WHILE_DRAINING, headers={"Retry-After": "5"})
        if isinstance(request, ChatRequest):
            prompts = await self._encode(self.encoder.chat, request)
        else:
            prompts = await self._encode(self.encoder.completions, request)
        return self._submit(request, prompts, client)

    async def tokenize(self, request: TokenizeRequest) -> dict[str, Any]:
        """Return the tokens of a text or a conversation, as vLLM's ``/tokenize`` does."""
        self._check_model(request.model)
        tokens = await self._encode(self.encoder.tokenize, request)
        spelt = [self.token_bytes(token).decode("utf-8", "replace") for token in tokens]
        return {
            "count": len(tokens),
            "max_model_len": self.bounds.context,
            "tokens": tokens,
            "token_strs": spelt if request.return_token_strs else None,
        }

    async def detokenize(self, request: DetokenizeRequest) -> dict[str, Any]:
        """Return the text of tokens, as vLLM's ``/detokenize`` does."""
        self._check_model(request.model)
        return {"prompt": await self._encode(self.encoder.detokenize, request)}

    def _check_model(self, name: str | None) -> None:
        if name not in (None, self.model):
            raise ApiError(
                404,
                f'the model "{name}" does not exist: this server has "{self.model}"',
                param="model",
                code="model_not_found",
            )

    async def _encode(
        self, function: Callable[[_Argument], _Result], argument: _Argument
    ) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._encoding, function, argument)

    def _submit(
        self,
        request: ChatRequest | CompletionRequest,
        prompts: Sequence[EncodedPrompt],
        client: str,
    ) -> Conversation:
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[tuple[int, Piece | PromptLogprobs | Failure] | None] = asyncio.Queue()

        def listen(number: int, said: Piece | PromptLogprobs | Failure) -> None:
            # The loop may be closed where the server has given up on the engine.
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.put_nowait, (number, said))

        works = make_works(request, prompts, self.bounds, self.engine.clock(), listen, client)
        try:
            self.engine.submit(works)
        except Full as full:
            raise ApiError(
                429,
                f"too many requests wait: try again in {full.retry_after} s",
                code="queue_full",
                headers={"Retry-After": str(full.retry_after)},
            ) from None
        except Draining:
            raise ApiError(503, _WHILE_DRAINING, headers={"Retry-After": "5"}) from None
        return Conversation(self, request, prompts, works, news)

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
        request: ChatRequest | CompletionRequest,
        prompts: Sequence[EncodedPrompt],
        works: Sequence[Work],
        news: asyncio.Queue[tuple[int, Piece | PromptLogprobs | Failure] | None],
    ) -> None:
        self._service = service
        self._request = request
        self._works = works
        self._news = news
        self._count = works[0].count
        self.answers = [Answer() for _ in range(len(works) * self._count)]
        self.prompt_tokens = sum(len(work.prompt) for work in works)
        self.failed = ""
        self._echoes: list[Echo] = []
        self._objects: Chat | Completion
        if isinstance(request, ChatRequest):
            self._objects = Chat(
                service.header("chatcmpl"), service.token_bytes, request.num_logprobs
            )
        else:
            if request.echo:
                self._echoes = [Echo(prompt.text, prompt.tokens) for prompt in prompts]
            self._objects = Completion(
                service.header("cmpl"),
                service.token_bytes,
                request.num_logprobs,
                self._echoes,
                request.n or 1,
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
        return None if self.failed else self._objects.whole(self._best(), self.usage)

    def _best(self) -> list[Answer]:
        """Return the ``n`` best of the candidates for each prompt, the best first."""
        n = self._request.n or 1
        if self._count == n:
            return self.answers
        best: list[Answer] = []
        for begin in range(0, len(self.answers), self._count):
            candidates = self.answers[begin : begin + self._count]
            best += sorted(candidates, key=lambda answer: -answer.mean_logprob)[:n]
        return best

    async def stream(self) -> AsyncIterator[dict[str, Any] | None]:
        """Yield the objects of a stream, then None if it came to its end.

        The first is yielded when the first news are there.

        Raises:
            ApiError: it failed.
        """
        usage = self._request.usage_in_stream
        begun: set[int] = set()
        try:
            async for index, piece in self._pieces():
                events = []
                if index not in begun:
                    begun.add(index)
                    events += [first] if (first := self._objects.first(index)) else []
                events += self._objects.chunks(index, piece, self.answers[index])
                self.answers[index].add(piece)
                so_far = self.usage if self._request.usage_in_chunks else None
                for chunk in events:
                    yield {**chunk, "usage": so_far} if usage else chunk
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
            if isinstance(said, PromptLogprobs):
                if self._echoes:
                    self._echoes[number].choices = said.choices
                continue
            left -= bool(said.finish_reason)
            yield number * self._count + said.index, said


def as_api_error(failure: Failure) -> ApiError:
    """Return what a client is told of a failure."""
    if failure.kind == "timeout" and not failure.started:
        message = "the request's time was over before it was its turn"
        return ApiError(503, message, code="timeout", headers={"Retry-After": "10"})
    if failure.kind == "timeout":
        return ApiError(504, "the request's time was over before its answer", code="timeout")
    if failure.kind == "stopped":
        return ApiError(503, "the server ended before the answer did", code="stopped")
    message = "the engine failed; the server's log says how"
    return ApiError(500, message, code="engine_failed", cause=failure.cause)

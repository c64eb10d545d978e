"""The life of a request: parsing, tokenization, generation and cancellation."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from entrypoints.serving.engine import Draining, Engine, Full
from entrypoints.serving.errors import ApiError
from entrypoints.serving.preprocess import EncodedPrompt, Encoder, RequestLimits, make_requests
from entrypoints.serving.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Parsed,
    TokenizeRequest,
    parse,
)
from entrypoints.serving.request import Failed, Failure, PromptLogprobs, Request, RequestOutput
from entrypoints.serving.response import (
    Answer,
    Chat,
    Completion,
    Echo,
    Header,
    TokenBytes,
    usage_of,
)

__all__ = ["RunningRequest", "Service", "as_api_error"]

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

_MAX_NAMED_FIELDS = 1000
_WHILE_DRAINING = "the server is shutting down and accepts no new requests"


@dataclass(frozen=True)
class Service:
    """Answers requests.

    Args:
        engine: computes the answers.
        encoder: tokenizes; not thread-safe.
        bounds: the limits of requests.
        token_bytes: returns a token's bytes.
        model: the model's name.
        created: the time of loading, in seconds since 1970.
        fingerprint: of the weights.
    """

    engine: Engine
    encoder: Encoder
    bounds: RequestLimits
    token_bytes: TokenBytes
    model: str
    created: int
    fingerprint: str
    # One thread each: tokenizers are not thread-safe, and parsing bodies one by one limits
    # the memory.
    _encoding: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="encoder")
    )
    _parsing: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="parser")
    )
    _named: set[str] = field(default_factory=set)

    async def parse(self, body: bytes, kind: type[Parsed]) -> tuple[Parsed, list[str]]:
        """Return a request, and its unknown fields that occur for the first time.

        Raises:
            ApiError: 400, see :func:`entrypoints.serving.protocol.parse`.
        """
        loop = asyncio.get_running_loop()
        request, unknown = await loop.run_in_executor(self._parsing, parse, body, kind)
        new_names = [name for name in unknown if name not in self._named]
        if len(self._named) < _MAX_NAMED_FIELDS:
            self._named.update(new_names)
        return request, new_names

    async def begin(
        self, request: ChatRequest | CompletionRequest, client: str = ""
    ) -> RunningRequest:
        """Submit a request to the engine.

        Args:
            request: the request.
            client: the name of the client's key; empty without keys.

        Raises:
            ApiError: 400, it cannot be answered; 404, unknown model; 429, the queue is full;
                503, the server is shutting down.
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
        """Return the tokens of a text or a chat, like vLLM's ``/tokenize``."""
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
        """Return the text of tokens, like vLLM's ``/detokenize``."""
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
    ) -> RunningRequest:
        loop = asyncio.get_running_loop()
        outputs: asyncio.Queue[tuple[int, RequestOutput | PromptLogprobs | Failure] | None] = (
            asyncio.Queue()
        )

        def listen(number: int, output: RequestOutput | PromptLogprobs | Failure) -> None:
            # The loop is closed if the server did not wait for the engine.
            if not loop.is_closed():
                loop.call_soon_threadsafe(outputs.put_nowait, (number, output))

        engine_requests = make_requests(
            request, prompts, self.bounds, self.engine.clock(), listen, client
        )
        try:
            self.engine.submit(engine_requests)
        except Full as full:
            raise ApiError(
                429,
                f"too many waiting requests: retry in {full.retry_after} s",
                code="queue_full",
                headers={"Retry-After": str(full.retry_after)},
            ) from None
        except Draining:
            raise ApiError(503, _WHILE_DRAINING, headers={"Retry-After": "5"}) from None
        return RunningRequest(self, request, prompts, engine_requests, outputs)

    def header(self, kind: str) -> Header:
        """Return the common fields of the objects of a new response."""
        name = f"{kind}-{secrets.token_hex(12)}"
        return Header(name, int(time.time()), self.model, self.fingerprint)


class RunningRequest:
    """A submitted request and its answers.

    Attributes:
        answers: the answers so far.
        prompt_tokens: the number of tokens of all prompts.
        failed: the kind of failure, ``gone`` (the client disconnected), or empty.
    """

    def __init__(
        self,
        service: Service,
        request: ChatRequest | CompletionRequest,
        prompts: Sequence[EncodedPrompt],
        engine_requests: Sequence[Request],
        outputs: asyncio.Queue[tuple[int, RequestOutput | PromptLogprobs | Failure] | None],
    ) -> None:
        self._service = service
        self._request = request
        self._engine_requests = engine_requests
        self._outputs = outputs
        self._count = engine_requests[0].count
        self.answers = [Answer() for _ in range(len(engine_requests) * self._count)]
        self.prompt_tokens = sum(len(each.prompt) for each in engine_requests)
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
        """The token counts so far."""
        return usage_of(self.prompt_tokens, self.answers)

    def leave(self) -> None:
        """End the output because the client disconnected."""
        self._outputs.put_nowait(None)

    def cancel(self) -> None:
        """Cancel the request in the engine; a finished one is ignored."""
        self._service.engine.cancel(self._engine_requests)

    async def whole(self) -> dict[str, Any] | None:
        """Return the response, or None if the client disconnected.

        Raises:
            ApiError: the request failed.
        """
        try:
            async for index, output in self._all_outputs():
                self.answers[index].add(output)
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
        """Yield the objects of a stream, then None if it is complete.

        The first object is yielded at the first output.

        Raises:
            ApiError: the request failed.
        """
        usage = self._request.usage_in_stream
        started: set[int] = set()
        try:
            async for index, output in self._all_outputs():
                events = []
                if index not in started:
                    started.add(index)
                    events += [first] if (first := self._objects.first(index)) else []
                events += self._objects.chunks(index, output, self.answers[index])
                self.answers[index].add(output)
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

    async def _all_outputs(self) -> AsyncIterator[tuple[int, RequestOutput]]:
        """Yield the outputs of every answer with its number, until all are complete."""
        left = len(self.answers)
        while left:
            item = await self._outputs.get()
            if item is None:
                self.failed = "gone"
                return
            number, output = item
            if isinstance(output, Failure):
                self.failed = output.kind
                raise Failed(output)
            if isinstance(output, PromptLogprobs):
                if self._echoes:
                    self._echoes[number].choices = output.choices
                continue
            left -= bool(output.finish_reason)
            yield number * self._count + output.index, output


def as_api_error(failure: Failure) -> ApiError:
    """Return the error for a failed request."""
    if failure.kind == "timeout" and not failure.started:
        message = "the request timed out in the queue"
        return ApiError(503, message, code="timeout", headers={"Retry-After": "10"})
    if failure.kind == "timeout":
        return ApiError(504, "the request timed out before its answer was complete", code="timeout")
    if failure.kind == "stopped":
        return ApiError(503, "the server shut down before the answer was complete", code="stopped")
    message = "the engine failed; see the server's log"
    return ApiError(500, message, code="engine_failed", cause=failure.cause)

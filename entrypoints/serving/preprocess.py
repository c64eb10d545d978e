"""Preprocessing of requests: tokens, sampling parameters and stopping criteria."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from entrypoints.inference.generate import StoppingCriteria
from entrypoints.inference.sampling import SamplingConfig
from entrypoints.inference.text import Text
from entrypoints.serving.errors import ApiError
from entrypoints.serving.protocol import (
    MAX_N,
    MAX_PROMPTS,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from entrypoints.serving.request import Failure, PromptLogprobs, Request, RequestOutput
from entrypoints.serving.scheduler import describe
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.prompts import Message, Prompt

__all__ = ["EncodedPrompt", "Encoder", "RequestLimits", "make_requests"]

_MAX_ANSWERS = 2 * MAX_PROMPTS

Listen = Callable[[int, RequestOutput | PromptLogprobs | Failure], None]


@dataclass(frozen=True)
class RequestLimits:
    """Limits of requests.

    Args:
        context: the model's context, in tokens.
        vocabulary: the size of the model's vocabulary.
        prompt_tokens: the maximum length of a prompt.
        new_tokens: the maximum length of an answer.
        cache_tokens: the maximum number of tokens of one request's answers together.
        max_num_seqs: the maximum number of running sequences.
        seconds: the timeout of a request.
        repetition_penalty: the model's default.
    """

    context: int
    vocabulary: int
    prompt_tokens: int
    new_tokens: int
    cache_tokens: int
    max_num_seqs: int
    seconds: float
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class EncodedPrompt:
    """A tokenized prompt.

    Args:
        tokens: its tokens.
        text: its text if the answer repeats it; else empty.
    """

    tokens: list[int]
    text: str = ""


class Encoder:
    """Tokenizes prompts.

    Args:
        chat: the tokenizer with the model's chat template.
        raw: the same without chat template.
        bounds: the limits of requests.
    """

    def __init__(self, chat: Text, raw: Text, bounds: RequestLimits) -> None:
        self._chat = chat
        self._raw = raw
        self._bounds = bounds

    def chat(self, request: ChatRequest) -> list[EncodedPrompt]:
        """Return the tokens of a chat, including the beginning of the answer.

        Raises:
            ApiError: 400, it is too long, or the model's template rejects it.
        """
        tokens = self._chat_tokens(request.messages)
        self._check(tokens, "messages")
        return [EncodedPrompt(tokens)]

    def completions(self, request: CompletionRequest) -> list[EncodedPrompt]:
        """Return the tokens of every prompt.

        Raises:
            ApiError: 400, one is too long, or has tokens outside of the vocabulary.
        """
        return [self._completion(prompt, request) for prompt in request.prompts]

    def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Return the tokens of a text or a chat, even if they exceed the context.

        Raises:
            ApiError: 400, it is far too long, or the model's template rejects it.
        """
        if request.messages is not None:
            return self._chat_tokens(request.messages)
        special = request.add_special_tokens is not False
        return self._encode(request.prompt or "", special)

    def detokenize(self, request: DetokenizeRequest) -> str:
        """Return the text of tokens, including special ones.

        Raises:
            ApiError: 400, a token is not in the vocabulary.
        """
        self._check_vocabulary(request.tokens, "tokens")
        return self._raw.decode_all(request.tokens)

    def special_tokens(self) -> dict[str, str | None]:
        """Return the texts of the tokens that begin, end and pad a text."""
        return self._raw.special_tokens()

    def _completion(self, prompt: str | list[int], request: CompletionRequest) -> EncodedPrompt:
        if isinstance(prompt, str):
            tokens = self._encode(prompt, request.add_special_tokens is not False)
            self._check(tokens, "prompt")
            return EncodedPrompt(tokens, prompt if request.echo else "")
        self._check(prompt, "prompt")
        if not request.echo:
            return EncodedPrompt(prompt)
        every = request.skip_special_tokens is False
        return EncodedPrompt(prompt, (self._raw.decode_all if every else self._raw.decode)(prompt))

    def _chat_tokens(self, messages: Sequence[ChatMessage]) -> list[int]:
        turns = tuple(
            Message("system" if m.role == "developer" else m.role, m.text) for m in messages
        )
        try:
            return self._chat.tokens(Prompt(0, turns, plain=False))
        except RequestError as error:
            raise self._rejection(error, "messages") from None
        except Exception as error:  # a template can raise any exception
            raise ApiError(
                400,
                f"the model's chat template failed on these messages: {type(error).__name__}",
                param="messages",
                cause=describe(error),
            ) from None

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            return self._raw.encode(text, add_special_tokens=add_special_tokens)
        except RequestError as error:
            raise self._rejection(error, "prompt") from None

    def _rejection(self, error: RequestError, field: str) -> ApiError:
        message = error.problems[0].what
        if "tokens long" in message:
            return self._too_long(message, field)
        return ApiError(400, message, param=field)

    def _too_long(self, message: str, field: str) -> ApiError:
        # OpenAI's wording, which clients search for.
        return ApiError(
            400,
            f"This model's maximum context length is {self._bounds.context} tokens: {message}",
            param=field,
            code="context_length_exceeded",
        )

    def _check(self, tokens: list[int], field: str) -> None:
        longest = min(self._bounds.prompt_tokens, self._bounds.context - 1)
        if not tokens:
            raise ApiError(400, "the prompt is empty", param=field)
        if len(tokens) > longest:
            message = f"the prompt is {len(tokens)} tokens long, expected at most {longest}"
            raise self._too_long(message, field)
        self._check_vocabulary(tokens, field)

    def _check_vocabulary(self, tokens: Sequence[int], field: str) -> None:
        """Check that all tokens are in the model's vocabulary; a tokenizer may have more."""
        size = self._bounds.vocabulary
        if tokens and max(tokens) >= size:
            raise ApiError(
                400, f"token {max(tokens)} is not in the model's vocabulary of {size}", param=field
            )


def make_requests(
    request: ChatRequest | CompletionRequest,
    prompts: Sequence[EncodedPrompt],
    bounds: RequestLimits,
    now: float,
    listen: Listen,
    client: str = "",
) -> list[Request]:
    """Return the engine's requests, one for each prompt.

    Args:
        request: the HTTP request.
        prompts: its prompts.
        bounds: the limits of requests.
        now: on the engine's clock.
        listen: called with the number of the prompt and the output.
        client: the client's name.

    Raises:
        ApiError: 400, it exceeds the server's limits.
    """
    count = request.candidates
    _check_count(request, len(prompts), bounds)
    sampling, limits = _sampling(request, bounds), _limits(request, bounds)
    num_logprobs = request.num_logprobs
    if num_logprobs is None and count > (request.n or 1):
        num_logprobs = 0  # the mean logprobs rank the candidates
    engine_requests = []
    for number, prompt in enumerate(prompts):
        engine_request = Request(
            prompt=prompt.tokens,
            count=count,
            sampling=sampling,
            limits=limits,
            top_logprobs=num_logprobs,
            deadline=now + bounds.seconds,
            listen=_numbered(listen, number),
            num_prompt_logprobs=request.num_prompt_logprobs,
            client=client,
        )
        if engine_request.longest * count > bounds.cache_tokens and count > 1:
            raise ApiError(
                400,
                f"{count} answers of up to {engine_request.longest} tokens: the cache holds"
                f" {bounds.cache_tokens} tokens",
                param="n",
            )
        engine_requests.append(engine_request)
    return engine_requests


def _check_count(
    request: ChatRequest | CompletionRequest, prompts: int, bounds: RequestLimits
) -> None:
    count, most = request.candidates, min(bounds.max_num_seqs, MAX_N)
    if count > most:
        field = "n" if count == request.n else "best_of"
        raise ApiError(400, f"{field}: expected at most {most}, got {count}", param=field)
    if prompts * count > _MAX_ANSWERS:
        raise ApiError(
            400,
            f"{prompts} prompts with {count} answers each: expected at most {_MAX_ANSWERS} answers",
            param="prompt",
        )


def _limits(request: ChatRequest | CompletionRequest, bounds: RequestLimits) -> StoppingCriteria:
    requested = request.max_new_tokens
    if requested is not None and (request.min_tokens or 0) > requested:
        raise ApiError(400, f"min_tokens: expected at most {requested}", param="min_tokens")
    stop_token_ids = frozenset(request.stop_token_ids or ())
    _check_tokens(stop_token_ids, "stop_token_ids", bounds)
    return StoppingCriteria(
        # Reduced to the server's limit; the context limits it further (`Request.longest`).
        max_new_tokens=bounds.new_tokens
        if requested is None
        else min(requested, bounds.new_tokens),
        context=bounds.context,
        stops=request.stops,
        stop_token_ids=stop_token_ids,
        ignore_eos=bool(request.ignore_eos),
        min_tokens=request.min_tokens or 0,
        include_stop=bool(request.include_stop_str_in_output),
        skip_special_tokens=request.skip_special_tokens is not False,
    )


def _sampling(request: ChatRequest | CompletionRequest, bounds: RequestLimits) -> SamplingConfig:
    temperature = 1.0 if request.temperature is None else request.temperature
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**64
    logit_bias = {int(token): bias for token, bias in (request.logit_bias or {}).items()}
    _check_tokens(logit_bias, "logit_bias", bounds)
    return SamplingConfig(
        greedy=temperature == 0,
        temperature=temperature or 1.0,
        top_k=max(request.top_k or 0, 0),
        top_p=1.0 if request.top_p is None else request.top_p,
        repetition_penalty=request.repetition_penalty or bounds.repetition_penalty,
        seed=seed,
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=logit_bias,
    )


def _check_tokens(
    tokens: frozenset[int] | dict[int, float], field: str, bounds: RequestLimits
) -> None:
    if tokens and max(tokens) >= bounds.vocabulary:
        raise ApiError(
            400,
            f"{field}: token {max(tokens)} is not in the model's vocabulary of {bounds.vocabulary}",
            param=field,
        )


def _numbered(
    listen: Listen, number: int
) -> Callable[[RequestOutput | PromptLogprobs | Failure], None]:
    return lambda output: listen(number, output)

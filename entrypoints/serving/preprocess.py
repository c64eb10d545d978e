"""From a request to work for the engine."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from entrypoints.inference.generate import Limits
from entrypoints.inference.sampling import Sampling
from entrypoints.inference.text import Text
from entrypoints.serving.errors import ApiError
from entrypoints.serving.requests import GREATEST_COUNT, ChatRequest, CompletionRequest
from entrypoints.serving.work import Failure, Piece, Work
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.prompts import Message, Prompt

__all__ = ["Bounds", "Encoder", "works"]

Listen = Callable[[int, Piece | Failure], None]


@dataclass(frozen=True)
class Bounds:
    """What is accepted.

    Args:
        context: the model's context, in tokens.
        vocabulary: the model's number of tokens.
        prompt_tokens: a prompt's greatest length.
        new_tokens: an answer's greatest length.
        cache_tokens: what one request's answers may take together.
        places: the answers that can be worked at together.
        seconds: for a request.
    """

    context: int
    vocabulary: int
    prompt_tokens: int
    new_tokens: int
    cache_tokens: int
    places: int
    seconds: float


class Encoder:
    """Turns what was asked into tokens.

    Args:
        chat: the tokenizer with the model's chat template.
        raw: the same without.
        bounds: what is accepted.
    """

    def __init__(self, chat: Text, raw: Text, bounds: Bounds) -> None:
        self._chat = chat
        self._raw = raw
        self._bounds = bounds

    def chat(self, asked: ChatRequest) -> list[int]:
        """Return the tokens of a conversation, the beginning of the answer included.

        Raises:
            ApiError: 400, it does not fit, or the model's template does not take it.
        """
        messages = tuple(
            Message("system" if m.role == "developer" else m.role, m.text) for m in asked.messages
        )
        plain = len(messages) == 1 and messages[0].role == "user"
        return self._tokens(self._chat, Prompt(0, messages, plain), "messages")

    def completions(self, asked: CompletionRequest) -> list[list[int]]:
        """Return the tokens of every prompt.

        Raises:
            ApiError: 400, one of them does not fit, or holds no token of the model's.
        """
        return [self._completion(prompt) for prompt in asked.prompts]

    def _completion(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            question = Prompt(0, (Message("user", prompt),), plain=True)
            return self._tokens(self._raw, question, "prompt")
        if any(token >= self._bounds.vocabulary for token in prompt):
            what = f"a token is out of the model's vocabulary of {self._bounds.vocabulary}"
            raise ApiError(400, what, param="prompt")
        self._check(prompt, "prompt")
        return prompt

    def _tokens(self, text: Text, prompt: Prompt, field: str) -> list[int]:
        try:
            tokens = text.tokens(prompt)
        except RequestError as error:
            what = error.problems[0].what
            code = "context_length_exceeded" if "tokens long" in what else None
            raise ApiError(400, what, param=field, code=code) from None
        self._check(tokens, field)
        return tokens

    def _check(self, tokens: list[int], field: str) -> None:
        longest = min(self._bounds.prompt_tokens, self._bounds.context - 1)
        if not tokens:
            raise ApiError(400, "the prompt is empty", param=field)
        if len(tokens) > longest:
            raise ApiError(
                400,
                f"the prompt is {len(tokens)} tokens long: {longest} are accepted"
                f" (the model's context is {self._bounds.context}, the answer included)",
                param=field,
                code="context_length_exceeded",
            )


def works(
    asked: ChatRequest | CompletionRequest,
    prompts: list[list[int]],
    bounds: Bounds,
    now: float,
    listen: Listen,
) -> list[Work]:
    """Return the work that a request makes, one for each prompt.

    Args:
        asked: the request.
        prompts: tokens of each of its prompts.
        bounds: what is accepted.
        now: on the engine's clock.
        listen: is given the number of the prompt, and the news.

    Raises:
        ApiError: 400, it is more than the server does at once.
    """
    count = asked.n or 1
    _check_count(asked, len(prompts), count, bounds)
    longest = asked.longest or bounds.new_tokens
    if longest > bounds.new_tokens:
        what = f"{longest} new tokens: {bounds.new_tokens} are the most here"
        field = "max_tokens" if asked.max_tokens else "max_completion_tokens"
        raise ApiError(400, what, param=field)
    sampling = _sampling(asked)
    made = []
    for number, prompt in enumerate(prompts):
        work = Work(
            prompt=prompt,
            count=count,
            sampling=sampling,
            limits=Limits(longest, bounds.context, asked.stops),
            likeliest=asked.likeliest,
            deadline=now + bounds.seconds,
            listen=_numbered(listen, number),
        )
        if work.longest * count > bounds.cache_tokens and count > 1:
            what = f"{count} answers of up to {work.longest} tokens: {bounds.cache_tokens} tokens"
            raise ApiError(400, f"{what} are kept at once", param="n")
        made.append(work)
    return made


def _check_count(
    asked: ChatRequest | CompletionRequest, prompts: int, count: int, bounds: Bounds
) -> None:
    most = min(bounds.places, GREATEST_COUNT)
    if count > most:
        raise ApiError(400, f"{count} answers: {most} are the most here", param="n")
    if prompts * count > GREATEST_COUNT:
        what = f"{prompts} prompts with {count} answers each: {GREATEST_COUNT} answers are the most"
        raise ApiError(400, what, param="prompt")


def _sampling(asked: ChatRequest | CompletionRequest) -> Sampling:
    temperature = 1.0 if asked.temperature is None else asked.temperature
    seed = secrets.randbits(63) if asked.seed is None else asked.seed % 2**64
    return Sampling(
        greedy=temperature == 0,
        temperature=temperature or 1.0,
        top_k=max(asked.top_k or 0, 0),
        top_p=1.0 if asked.top_p is None else asked.top_p,
        repetition_penalty=asked.repetition_penalty or 1.0,
        seed=seed,
    )


def _numbered(listen: Listen, number: int) -> Callable[[Piece | Failure], None]:
    return lambda news: listen(number, news)

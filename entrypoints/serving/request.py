"""Requests to the engine, and their outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from entrypoints.inference.generate import StoppingCriteria
from entrypoints.inference.sampling import SampledToken, SamplingConfig

__all__ = ["Failed", "Failure", "PromptLogprobs", "Request", "RequestOutput"]


@dataclass(frozen=True)
class RequestOutput:
    """New output of one of a request's answers.

    Args:
        index: the answer's number in the request, from 0.
        text: the new text; whole characters, and nothing that could become a stop text.
        choices: the tokens since the last output, if log probabilities were requested.
        tokens: the number of tokens of the answer so far.
        finish_reason: ``stop`` or ``length`` in the last output of an answer, else empty.
    """

    index: int
    text: str
    choices: tuple[SampledToken, ...]
    tokens: int
    finish_reason: str


@dataclass(frozen=True)
class PromptLogprobs:
    """The log probabilities of a prompt's tokens, sent before the first :class:`RequestOutput`.

    Args:
        choices: of the tokens from the second on; the first one has no probability.
    """

    choices: tuple[SampledToken, ...]


@dataclass(frozen=True)
class Failure:
    """The failure of a request.

    Args:
        kind: ``timeout`` (past its deadline), ``fault`` (the engine failed) or ``stopped``
            (the server is shutting down).
        started: whether its computation had started.
        cause: the exception, for the log.
    """

    kind: str
    started: bool
    cause: str = ""


class Failed(Exception):
    """Raised where the output of a failed request is awaited."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.kind)


@dataclass(eq=False)
class Request:
    """A prompt and the settings of its answers.

    Args:
        prompt: its tokens; at least one, fewer than the context.
        count: the number of answers.
        sampling: the sampling parameters.
        limits: the stopping criteria.
        top_logprobs: the number of most probable tokens to return per position; None for no
            log probabilities.
        deadline: on the engine's clock, in seconds.
        listen: called by the engine's thread with each :class:`RequestOutput` or the
            :class:`Failure`.
        num_prompt_logprobs: the number of most probable tokens per position of the prompt;
            None for no :class:`PromptLogprobs`.
        client: the client's name; empty without API keys.

    Attributes:
        arrived: the time of arrival; on the engine's clock, like the following.
        started: the start of the prefill; None before.
        first_token: the time of the first token; None before.
        cancelled: whether it was cancelled.
        finish_reasons: of the finished answers, by their number.
        tokens: the number of tokens generated so far.
    """

    prompt: Sequence[int]
    count: int
    sampling: SamplingConfig
    limits: StoppingCriteria
    top_logprobs: int | None
    deadline: float
    listen: Callable[[RequestOutput | PromptLogprobs | Failure], None] = field(repr=False)
    num_prompt_logprobs: int | None = None
    client: str = ""
    arrived: float = 0.0
    started: float | None = None
    first_token: float | None = None
    cancelled: bool = False
    finish_reasons: dict[int, str] = field(default_factory=dict)
    tokens: int = 0

    @property
    def longest(self) -> int:
        """The maximum number of tokens of an answer, including the prompt."""
        return min(len(self.prompt) + self.limits.max_new_tokens, self.limits.context)

"""What the engine is given to do, and what it says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from entrypoints.inference.generate import Limits
from entrypoints.inference.sampling import Choice, Sampling

__all__ = ["Failed", "Failure", "Piece", "PromptLogprobs", "Work"]


@dataclass(frozen=True)
class Piece:
    """News of one of a work's answers.

    Args:
        index: which of the answers, from 0.
        text: what comes next; whole characters, and nothing that could become a stop text.
        choices: the tokens since the last piece, where probabilities were asked for.
        tokens: how many tokens the answer has by now.
        finish_reason: ``stop`` or ``length`` with the last piece of an answer, else empty.
    """

    index: int
    text: str
    choices: tuple[Choice, ...]
    tokens: int
    finish_reason: str


@dataclass(frozen=True)
class PromptLogprobs:
    """The logprobs of a prompt's tokens; they come before the first :class:`Piece`.

    Args:
        choices: of the tokens from the second on; the first one has no probability.
    """

    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Failure:
    """A work that does not go on.

    Args:
        kind: ``timeout`` (its time was over), ``fault`` (the engine failed) or ``stopped``
            (the server ends).
        started: whether anything was computed for it.
        cause: the exception, for the log.
    """

    kind: str
    started: bool
    cause: str = ""


class Failed(Exception):
    """A work that does not go on, where it is waited for."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.kind)


@dataclass(eq=False)
class Work:
    """One prompt, and the answers that are wanted to it.

    Args:
        prompt: its tokens; at least one, fewer than the context.
        count: how many answers.
        sampling: how tokens are chosen.
        limits: where answers end.
        likeliest: how many of the likeliest tokens are told at each place; None for no
            probabilities at all.
        deadline: on the engine's clock, in seconds.
        listen: is given each :class:`Piece`, or the :class:`Failure`, by the engine's thread.
        num_prompt_logprobs: the number of likeliest tokens at each position of the prompt;
            None for no :class:`PromptLogprobs`.
        client: whose request it is; empty where clients have no names.

    Attributes:
        arrived: when it was taken in; on the engine's clock, as are the following.
        started: when its prompt began to be read; None before.
        first_token: when its first token was there; None before.
        cancelled: nobody wants the answers any more.
        finish_reasons: of the answers that have ended, by their number.
        tokens: that were generated for it so far.
    """

    prompt: Sequence[int]
    count: int
    sampling: Sampling
    limits: Limits
    likeliest: int | None
    deadline: float
    listen: Callable[[Piece | PromptLogprobs | Failure], None] = field(repr=False)
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
        """How many tokens its longest answer can have, the prompt included."""
        return min(len(self.prompt) + self.limits.max_new_tokens, self.limits.context)

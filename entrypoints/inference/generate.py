"""The decoding loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from entrypoints.inference.protocols import Decoding, LanguageModel
from entrypoints.inference.sampling import Choice, Chooser, Logits, Sampling, choice
from entrypoints.inference.stream import TextStream
from entrypoints.inference.text import Text
from paddle_stacks.jobs.prompts import SamplingParams

__all__ = ["Answer", "Asked", "Limits", "Row", "Speed", "answer_all", "wished"]


@dataclass(frozen=True)
class Limits:
    """Where an answer ends.

    Args:
        max_new_tokens: at so many tokens.
        context: where prompt and answer fill the model's context.
        stops: at any of these texts.
        stop_token_ids: at any of these tokens, besides the model's end tokens.
        ignore_eos: not at the model's end tokens.
        min_tokens: at no end token and no stop text before so many tokens.
        include_stop: with the stop text that ended it, which is left out otherwise.
        skip_special_tokens: without special tokens in the text.
    """

    max_new_tokens: int
    context: int
    stops: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    min_tokens: int = 0
    include_stop: bool = False
    skip_special_tokens: bool = True


@dataclass(frozen=True)
class Asked:
    """What is wanted of an answer.

    Args:
        sampling: how tokens are chosen.
        limits: where it ends.
        likeliest: how many of the likeliest tokens are told at each place; None for no
            probabilities.
    """

    sampling: Sampling
    limits: Limits
    likeliest: int | None = None


def wished(usual: Asked, params: SamplingParams) -> Asked:
    """Return what is wanted of an answer: what its prompt says, else what is usual."""
    given = {
        name: value
        for name in ("temperature", "top_k", "top_p", "repetition_penalty", "seed")
        if (value := getattr(params, name)) is not None
    }
    greedy = usual.sampling.greedy
    if params.decode is not None:
        greedy = params.decode == "greedy"
    elif given.keys() & {"temperature", "top_k", "top_p"}:
        greedy = False
    limits = usual.limits
    if params.max_new_tokens is not None:
        limits = replace(limits, max_new_tokens=params.max_new_tokens)
    if params.stop is not None:
        limits = replace(limits, stops=params.stop)
    sampling = replace(usual.sampling, greedy=greedy, **given)
    return replace(usual, sampling=sampling, limits=limits)


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Args:
        text: without special tokens, and without the stop text that ended it.
        token_ids: the tokens that were generated, without the end token; with
            those of a stop text.
        finish_reason: ``stop`` at an end token or a stop text, ``length`` at a
            limit, ``interrupted`` where the listener wanted no more.
        choices: how likely the model found each of the tokens, where that was asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    choices: tuple[Choice, ...] = ()


@dataclass
class Speed:
    """What was generated, and how fast; filled as the work goes on."""

    tokens: int = 0
    seconds: float = 0.0
    first_token: float | None = field(default=None)
    """``time.perf_counter()`` when the first token of all was there."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second, prompts' reading included."""
        return self.tokens / self.seconds if self.seconds else 0.0


class Row:
    """One answer in the making.

    Args:
        text: the tokenizer.
        prompt: the prompt's tokens.
        chooser: chooses its tokens.
        limits: where it ends.
        likeliest: how many of the likeliest tokens are told at each place; None for no
            probabilities.

    Attributes:
        tokens: that were generated so far.
        reason: why it ended, as in :class:`Answer`; empty while it goes on.
    """

    def __init__(
        self,
        text: Text,
        prompt: Sequence[int],
        chooser: Chooser,
        limits: Limits,
        likeliest: int | None = None,
    ) -> None:
        self.chooser = chooser
        self._likeliest = likeliest
        self._choices: list[Choice] = []
        self.stream = TextStream(
            text.decode if limits.skip_special_tokens else text.decode_all,
            limits.stops,
            min_tokens=limits.min_tokens,
            include_stop=limits.include_stop,
        )
        self.tokens: list[int] = []
        self.reason = ""
        self._ends = limits.stop_token_ids | (frozenset() if limits.ignore_eos else text.ends)
        self._min_tokens = limits.min_tokens
        self._room = min(limits.max_new_tokens, limits.context - len(prompt))

    def take(self, token: int) -> str:
        """Take the next token and return what may be shown; sets the reason when it ends."""
        if token in self._ends:
            self.reason = "stop"
            return self.stream.finish()
        self.tokens.append(token)
        piece = self.stream.push(token)
        if not self.stream.stopped and len(self.tokens) >= self._room:
            self.reason = "length"
            piece += self.stream.finish()
        if self.stream.stopped:
            self.reason = "stop"
        return piece

    def answer(self) -> Answer:
        """Return the answer as far as it has come."""
        # An end token was chosen too, and is not part of the answer.
        choices = tuple(self._choices[: len(self.tokens)])
        return Answer(self.stream.text, tuple(self.tokens), self.reason, choices)

    def choose(self, logits: Logits) -> int:
        """Return the next token."""
        banned = self._ends if len(self.tokens) < self._min_tokens else ()
        token = self.chooser.choose(logits, banned)
        if self._likeliest is not None:
            self._choices.append(choice(logits, token, self._likeliest))
        return token


def answer_all(
    model: LanguageModel,
    text: Text,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[int],
    asked: Sequence[Asked],
    listen: Callable[[str], bool] = lambda _: True,
    speed: Speed | None = None,
) -> list[Answer]:
    """Answer prompts together, and return the answers in their order.

    Args:
        model: the model.
        text: its tokenizer.
        prompts: tokens of each prompt; shorter than the model's context.
        numbers: each answer's number in the run: its random numbers depend on it.
        asked: what is wanted of each answer.
        listen: is given text as it comes, and returns whether to go on; for one
            prompt only, as texts would mix.
        speed: is filled.
    """
    speed = speed or Speed()
    begun = time.perf_counter()
    rows = [
        Row(text, prompt, Chooser(one.sampling, number, prompt), one.limits, one.likeliest)
        for prompt, number, one in zip(prompts, numbers, asked, strict=True)
    ]
    decoding, going = model.start(prompts), rows
    while going:
        chosen = [row.choose(logits) for row, logits in zip(going, decoding.logits, strict=True)]
        speed.first_token = speed.first_token or time.perf_counter()
        for row, token in zip(going, chosen, strict=True):
            if not listen(row.take(token)) and not row.reason:
                row.reason = "interrupted"
        going = _advance(decoding, going, chosen)
    speed.tokens += sum(len(row.tokens) for row in rows)
    speed.seconds += time.perf_counter() - begun
    return [row.answer() for row in rows]


def _advance(decoding: Decoding, rows: list[Row], chosen: Sequence[int]) -> list[Row]:
    """Drop the rows that have ended and give the others their token; return the others."""
    unfinished = [at for at, row in enumerate(rows) if not row.reason]
    if not unfinished:
        return []
    if len(unfinished) < len(rows):
        decoding.keep(unfinished)
    decoding.step([chosen[at] for at in unfinished])
    return [rows[at] for at in unfinished]

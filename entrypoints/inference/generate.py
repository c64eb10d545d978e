"""The decoding loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from entrypoints.inference.protocols import Decoding, LanguageModel
from entrypoints.inference.sampling import (
    Logits,
    SampledToken,
    Sampler,
    SamplingConfig,
    sampled_token,
)
from entrypoints.inference.stream import TextStream
from entrypoints.inference.text import Text
from paddle_stacks.jobs.prompts import SamplingParams

__all__ = [
    "Answer",
    "GenerationConfig",
    "GenerationStats",
    "RunningSequence",
    "StoppingCriteria",
    "generate",
    "with_overrides",
]


@dataclass(frozen=True)
class StoppingCriteria:
    """The conditions that end an answer, and the form of its text.

    Args:
        max_new_tokens: the maximum number of tokens.
        context: the maximum number of tokens of prompt and answer together.
        stops: texts that end the answer.
        stop_token_ids: tokens that end the answer, in addition to the model's end tokens.
        ignore_eos: whether the answer continues after the model's end tokens.
        min_tokens: tokens before which neither end tokens nor stop texts count.
        include_stop: whether the text includes the stop text that ended it.
        skip_special_tokens: whether special tokens are removed from the text.
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
class GenerationConfig:
    """The settings of one answer.

    Args:
        sampling: the sampling parameters.
        limits: the stopping criteria.
        top_logprobs: the number of most probable tokens to return per position; None for no
            log probabilities.
    """

    sampling: SamplingConfig
    limits: StoppingCriteria
    top_logprobs: int | None = None


def with_overrides(defaults: GenerationConfig, params: SamplingParams) -> GenerationConfig:
    """Return the defaults with the settings that a prompt overrides."""
    overrides = {
        name: value
        for name in ("temperature", "top_k", "top_p", "repetition_penalty", "seed")
        if (value := getattr(params, name)) is not None
    }
    greedy = defaults.sampling.greedy
    if params.decode is not None:
        greedy = params.decode == "greedy"
    elif overrides.keys() & {"temperature", "top_k", "top_p"}:
        greedy = False
    limits = defaults.limits
    if params.max_new_tokens is not None:
        limits = replace(limits, max_new_tokens=params.max_new_tokens)
    if params.stop is not None:
        limits = replace(limits, stops=params.stop)
    sampling = replace(defaults.sampling, greedy=greedy, **overrides)
    return replace(defaults, sampling=sampling, limits=limits)


@dataclass(frozen=True)
class Answer:
    """An answer of the model.

    Args:
        text: without special tokens, and without the stop text that ended it.
        token_ids: the generated tokens, without the end token but with those of a stop text.
        finish_reason: ``stop`` at an end token or a stop text, ``length`` at a
            limit, ``interrupted`` if the listener returned false.
        choices: the tokens with their log probabilities, if requested.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    choices: tuple[SampledToken, ...] = ()


@dataclass
class GenerationStats:
    """Number and speed of the generated tokens; updated during generation."""

    tokens: int = 0
    seconds: float = 0.0
    first_token: float | None = field(default=None)
    """``time.perf_counter()`` at the first token of the run."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second, including prefill."""
        return self.tokens / self.seconds if self.seconds else 0.0


class RunningSequence:
    """An answer during generation.

    Args:
        text: the tokenizer.
        prompt: the prompt's tokens.
        sampler: samples its tokens.
        limits: the stopping criteria.
        top_logprobs: as in :class:`GenerationConfig`.

    Attributes:
        tokens: the tokens generated so far.
        reason: the finish reason, as in :class:`Answer`; empty while it is unfinished.
    """

    def __init__(
        self,
        text: Text,
        prompt: Sequence[int],
        sampler: Sampler,
        limits: StoppingCriteria,
        top_logprobs: int | None = None,
    ) -> None:
        self.sampler = sampler
        self._top_logprobs = top_logprobs
        self._choices: list[SampledToken] = []
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
        """Add the next token and return the new text; sets the reason when the answer ends."""
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
        """Return the answer so far."""
        # An end token was sampled too, but is not part of the answer.
        choices = tuple(self._choices[: len(self.tokens)])
        return Answer(self.stream.text, tuple(self.tokens), self.reason, choices)

    def sample(self, logits: Logits) -> int:
        """Return the next token."""
        banned = self._ends if len(self.tokens) < self._min_tokens else ()
        token = self.sampler.sample(logits, banned)
        if self._top_logprobs is not None:
            self._choices.append(sampled_token(logits, token, self._top_logprobs))
        return token


def generate(
    model: LanguageModel,
    text: Text,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[int],
    configs: Sequence[GenerationConfig],
    listen: Callable[[str], bool] = lambda _: True,
    speed: GenerationStats | None = None,
) -> list[Answer]:
    """Generate answers in one batch, and return them in the order of the prompts.

    Args:
        model: the model.
        text: its tokenizer.
        prompts: tokens of each prompt; shorter than the model's context.
        numbers: each answer's number in the run, which its random numbers depend on.
        configs: the settings of each answer.
        listen: called with new text; returns whether to continue. For a single prompt only,
            because texts would mix.
        speed: updated.
    """
    speed = speed or GenerationStats()
    start_time = time.perf_counter()
    rows = [
        RunningSequence(
            text, prompt, Sampler(one.sampling, number, prompt), one.limits, one.top_logprobs
        )
        for prompt, number, one in zip(prompts, numbers, configs, strict=True)
    ]
    decoding, going = model.start(prompts), rows
    while going:
        chosen = [row.sample(logits) for row, logits in zip(going, decoding.logits, strict=True)]
        speed.first_token = speed.first_token or time.perf_counter()
        for row, token in zip(going, chosen, strict=True):
            if not listen(row.take(token)) and not row.reason:
                row.reason = "interrupted"
        going = _advance(decoding, going, chosen)
    speed.tokens += sum(len(row.tokens) for row in rows)
    speed.seconds += time.perf_counter() - start_time
    return [row.answer() for row in rows]


def _advance(
    decoding: Decoding, rows: list[RunningSequence], chosen: Sequence[int]
) -> list[RunningSequence]:
    """Remove finished rows, feed the others their tokens, and return them."""
    unfinished = [at for at, row in enumerate(rows) if not row.reason]
    if not unfinished:
        return []
    if len(unfinished) < len(rows):
        decoding.keep(unfinished)
    decoding.step([chosen[at] for at in unfinished])
    return [rows[at] for at in unfinished]

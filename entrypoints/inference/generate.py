"""The decoding loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from entrypoints.inference.sampling import Chooser, Sampling
from entrypoints.inference.stream import TextStream
from entrypoints.inference.text import Text

if TYPE_CHECKING:  # they import Paddle
    from entrypoints.inference.model import Decoding, LanguageModel

__all__ = ["Answer", "Limits", "Row", "Speed", "answer_all"]


@dataclass(frozen=True)
class Limits:
    """Where an answer ends.

    Args:
        max_new_tokens: at so many tokens.
        context: where prompt and answer fill the model's context.
        stops: at any of these texts.
    """

    max_new_tokens: int
    context: int
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Args:
        text: without special tokens, and without the stop text that ended it.
        token_ids: the tokens that were generated, without the end token; with
            those of a stop text.
        finish_reason: ``stop`` at an end token or a stop text, ``length`` at a
            limit, ``interrupted`` where the listener wanted no more.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str


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

    Attributes:
        tokens: that were generated so far.
        reason: why it ended, as in :class:`Answer`; empty while it goes on.
    """

    def __init__(self, text: Text, prompt: Sequence[int], chooser: Chooser, limits: Limits) -> None:
        self.chooser = chooser
        self.stream = TextStream(text.decode, limits.stops)
        self.tokens: list[int] = []
        self.reason = ""
        self._ends = text.ends
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
        return Answer(self.stream.text, tuple(self.tokens), self.reason)


def answer_all(
    model: LanguageModel,
    text: Text,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[int],
    sampling: Sampling,
    limits: Limits,
    listen: Callable[[str], bool] = lambda _: True,
    speed: Speed | None = None,
) -> list[Answer]:
    """Answer prompts together, and return the answers in their order.

    Args:
        model: the model.
        text: its tokenizer.
        prompts: tokens of each prompt; shorter than the model's context.
        numbers: each answer's number in the run: its random numbers depend on it.
        sampling: how tokens are chosen.
        limits: where answers end.
        listen: is given text as it comes, and returns whether to go on; for one
            prompt only, as texts would mix.
        speed: is filled.
    """
    speed = speed or Speed()
    begun = time.perf_counter()
    rows = [
        Row(text, prompt, Chooser(sampling, number, prompt), limits)
        for prompt, number in zip(prompts, numbers, strict=True)
    ]
    decoding, going = model.start(prompts), rows
    while going:
        chosen = [
            row.chooser.choose(logits) for row, logits in zip(going, decoding.logits, strict=True)
        ]
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
    kept = [at for at, row in enumerate(rows) if not row.reason]
    if not kept:
        return []
    if len(kept) < len(rows):
        decoding.keep(kept)
    decoding.step([chosen[at] for at in kept])
    return [rows[at] for at in kept]

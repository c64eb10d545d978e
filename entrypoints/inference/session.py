"""A model and its tokenizer with a run's options: what prompt, file and chat have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from entrypoints.inference import text as texts
from entrypoints.inference.arguments import Options
from entrypoints.inference.generate import Answer, Asked, Limits, Speed, answer_all, wished
from entrypoints.inference.model import context_length, load
from entrypoints.inference.protocols import LanguageModel
from entrypoints.inference.text import Text
from entrypoints.runtime.console import note, phase, report
from paddle_stacks.jobs.prompts import DEFAULT_SAMPLING, SamplingParams

__all__ = ["Session", "load_model", "open_text"]


@dataclass(frozen=True)
class Session:
    """What answers need.

    Args:
        options: of the run.
        text: the tokenizer.
        model: the model.
        limits: where answers end.
        begun: ``time.perf_counter()`` when the job began.
        speed: of all answers so far.
    """

    options: Options
    text: Text
    model: LanguageModel
    limits: Limits
    begun: float
    speed: Speed

    @classmethod
    def open(
        cls, options: Options, text: Text, model: Path, adapter: Path | None, begun: float
    ) -> Session:
        """Load the model, and the adapter into it."""
        before = time.perf_counter()
        phase("load the model" + (" with its adapter" if adapter else ""))
        network = load_model(options, model, adapter)
        note(
            f"loaded {model}{f' with {adapter}' if adapter else ''}"
            f" in {time.perf_counter() - before:.1f} s"
        )
        limits = Limits(options.max_new_tokens, context_length(model), options.stops)
        return cls(options, text, network, limits, begun, Speed())

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        numbers: Sequence[int],
        listen: Callable[[str], bool] = lambda _: True,
        params: Sequence[SamplingParams] = (),
    ) -> list[Answer]:
        """Answer prompts together; see :func:`entrypoints.inference.generate.answer_all`.

        Args:
            prompts: their tokens.
            numbers: of each in the run.
            listen: to the text as it comes.
            params: the sampling parameters of each prompt; empty for those of the options.
        """
        usual = Asked(self.options.sampling, self.limits, self.options.logprobs)
        asked = [wished(usual, each) for each in params or [DEFAULT_SAMPLING] * len(prompts)]
        return answer_all(self.model, self.text, prompts, numbers, asked, listen, self.speed)

    def report(self) -> None:
        """Say how much was generated, and how fast."""
        first = self.speed.first_token
        report(
            "result",
            tokens=self.speed.tokens,
            tokens_per_second=round(self.speed.tokens_per_second, 1),
            seconds_to_first_token=None if first is None else round(first - self.begun, 2),
        )


def load_model(options: Options, model: Path, adapter: Path | None) -> LanguageModel:
    """Return the model for the engine that was asked for, with the adapter in it."""
    if options.engine == "static":
        from entrypoints.inference import static

        return static.load(model)
    if options.engine == "native":
        from entrypoints.native.model import load as load_native

        return load_native(model, adapter, options.precision)
    return load(model, adapter, options.dtype)


def open_text(options: Options, model: Path) -> Text:
    """Load the tokenizer, and say so if it has no chat template that would be used."""
    text = texts.load(model, context_length(model), raw=options.raw)
    if not text.has_template and not options.raw:
        note("the model has no chat template: prompts go to it as they are")
    return text

"""A loaded model with its tokenizer and options, for prompts, files and chats."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from entrypoints.inference import text as texts
from entrypoints.inference.arguments import Options
from entrypoints.inference.generate import (
    Answer,
    GenerationConfig,
    GenerationStats,
    StoppingCriteria,
    generate,
    with_overrides,
)
from entrypoints.inference.model import context_length
from entrypoints.inference.protocols import LanguageModel
from entrypoints.inference.text import Text
from entrypoints.runtime.console import note, phase, report
from paddle_stacks.jobs.prompts import DEFAULT_SAMPLING, SamplingParams

__all__ = ["ModelLoader", "Session", "open_text"]

ModelLoader = Callable[[Options, Path, Path | None], LanguageModel]
"""Loads a model for an engine, and merges an adapter into it."""


@dataclass(frozen=True)
class Session:
    """A loaded model with a run's options.

    Args:
        options: the job's options.
        text: the tokenizer.
        model: the model.
        limits: the stopping criteria.
        start_time: ``time.perf_counter()`` at the start of the job.
        speed: statistics of all answers so far.
    """

    options: Options
    text: Text
    model: LanguageModel
    limits: StoppingCriteria
    start_time: float
    speed: GenerationStats

    @classmethod
    def open(
        cls,
        options: Options,
        text: Text,
        model: Path,
        adapter: Path | None,
        load: ModelLoader,
        start_time: float,
    ) -> Session:
        """Load the model and merge the adapter, if there is one."""
        before = time.perf_counter()
        phase("load the model" + (" with its adapter" if adapter else ""))
        network = load(options, model, adapter)
        note(
            f"loaded {model}{f' with {adapter}' if adapter else ''}"
            f" in {time.perf_counter() - before:.1f} s"
        )
        limits = StoppingCriteria(options.max_new_tokens, context_length(model), options.stop)
        return cls(options, text, network, limits, start_time, GenerationStats())

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        numbers: Sequence[int],
        listen: Callable[[str], bool] = lambda _: True,
        params: Sequence[SamplingParams] = (),
    ) -> list[Answer]:
        """Answer prompts in one batch; see :func:`entrypoints.inference.generate.generate`.

        Args:
            prompts: their tokens.
            numbers: the number of each in the run.
            listen: called with new text.
            params: the sampling parameters that each prompt overrides; empty for none.
        """
        defaults = GenerationConfig(self.options.sampling, self.limits, self.options.logprobs)
        overrides = params or [DEFAULT_SAMPLING] * len(prompts)
        configs = [with_overrides(defaults, each) for each in overrides]
        return generate(self.model, self.text, prompts, numbers, configs, listen, self.speed)

    def report(self) -> None:
        """Report the number and the speed of the generated tokens."""
        first = self.speed.first_token
        report(
            "result",
            tokens=self.speed.tokens,
            tokens_per_second=round(self.speed.tokens_per_second, 1),
            seconds_to_first_token=None if first is None else round(first - self.start_time, 2),
        )


def open_text(options: Options, model: Path) -> Text:
    """Load the tokenizer, and report a missing chat template."""
    text = texts.load(model, context_length(model), raw=options.raw)
    if not text.has_template and not options.raw:
        note("the model has no chat template: prompts are passed unchanged")
    return text

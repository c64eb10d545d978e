"""A model and its tokenizer with a run's options: what prompt, file and chat have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from entrypoints.console import note, phase, report
from entrypoints.inference import text as texts
from entrypoints.inference.arguments import Options
from entrypoints.inference.generate import Answer, Limits, Speed, answer_all
from entrypoints.inference.model import LanguageModel, context_length, load
from entrypoints.inference.text import Text

__all__ = ["Session", "open_text"]


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
        network = _loaded(options, model, adapter)
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
    ) -> list[Answer]:
        """Answer prompts together; see :func:`entrypoints.inference.generate.answer_all`."""
        sampling = self.options.sampling
        return answer_all(
            self.model, self.text, prompts, numbers, sampling, self.limits, listen, self.speed
        )

    def report(self) -> None:
        """Say how much was generated, and how fast."""
        first = self.speed.first_token
        report(
            "result",
            tokens=self.speed.tokens,
            tokens_per_second=round(self.speed.tokens_per_second, 1),
            seconds_to_first_token=None if first is None else round(first - self.begun, 2),
        )


def _loaded(options: Options, model: Path, adapter: Path | None) -> LanguageModel:
    if options.engine == "static":
        from entrypoints.inference import static

        return static.load(model)
    return load(model, adapter, options.dtype)


def open_text(options: Options, model: Path) -> Text:
    """Load the tokenizer, and say so if it has no chat template that would be used."""
    text = texts.load(model, context_length(model), raw=options.raw)
    if not text.has_template and not options.raw:
        note("the model has no chat template: prompts go to it as they are")
    return text

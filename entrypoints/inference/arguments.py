"""Arguments of ``infer``."""

from __future__ import annotations

from dataclasses import replace

from entrypoints.inference.sampling import SamplingConfig
from entrypoints.runtime.arguments import parse as parse_arguments
from paddle_stacks.jobs.options import InferOptions

__all__ = ["STANDARD_STREAM", "Options", "parse"]

STANDARD_STREAM = "-"
"""As ``--prompt``, ``--input`` or ``--output``: standard input or output."""


class Options(InferOptions):
    """Options of ``infer``, and the sampling parameters that result from them."""

    @property
    def output_file(self) -> str | None:
        """The file for the answers or the benchmark's results; None for standard output."""
        return None if self.output == STANDARD_STREAM else self.output or None

    @property
    def sampling(self) -> SamplingConfig:
        """The sampling parameters."""
        implied = "sampling" if self.sampling_flags else "greedy"
        penalty = self.repetition_penalty
        return SamplingConfig(
            greedy=(self.decode or implied) == "greedy",
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k or 0,
            top_p=1.0 if self.top_p is None else self.top_p,
            repetition_penalty=1.0 if penalty is None else penalty,
            seed=self.seed,
        )

    def with_repetition_penalty(self, penalty: float) -> Options:
        """Return the options with a model's own repetition penalty, unless they have one."""
        if self.repetition_penalty is not None:
            return self
        return replace(self, repetition_penalty=penalty)


def parse(argv: list[str]) -> Options:
    """Return the options on the command line.

    Raises:
        RequestError: they are invalid; all faults at once.
    """
    return parse_arguments(Options, argv)

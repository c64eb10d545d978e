"""Arguments of ``infer``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from entrypoints.inference.sampling import SamplingConfig
from entrypoints.runtime.arguments import parse as parse_arguments
from paddle_stacks.jobs import backends
from paddle_stacks.jobs.options import InferOptions

__all__ = ["STANDARD_STREAM", "Options", "parse"]

STANDARD_STREAM = "-"
"""As ``--prompt``, ``--input`` or ``--output``: standard input or output."""


@dataclass(frozen=True)
class Options:
    """Options of ``infer``.

    Args:
        engine: ``dynamic``, ``static`` or ``native``.
        model: name in ``models/`` or path of the base model; an exported folder for the
            static engine.
        adapter: run or path of a LoRA adapter, or None.
        prompt: a question, or ``-``; exactly one of this, ``input``, ``chat`` and
            ``benchmark`` is set.
        input: a file of prompts, or ``-``.
        output: the file for the answers to ``input``; ``-`` is standard output.
        chat: whether to chat.
        benchmark: whether to run the benchmark.
        source_length: prompt length of the benchmark, in tokens.
        rounds: measured rounds of the benchmark.
        system: a system message for prompts that have none, or None.
        raw: whether prompts are passed unchanged, without the chat template.
        sampling: the sampling parameters.
        stops: texts that end an answer.
        max_new_tokens: the maximum number of tokens of an answer.
        batch_size: the number of prompts of ``input`` in a batch.
        logprobs: the number of most probable tokens per position in answers to ``input``;
            None for no log probabilities.
        dtype: the computation type: ``float32`` or ``float16``.
        precision: of the native engine's weights: ``fp32``, ``bf16`` or ``int8``; None for that
            of the checkpoint.
        force: whether to replace an existing ``output`` or another run's partial output.
        own_repetition_penalty: whether the command line sets the repetition penalty.
    """

    engine: str
    model: str
    adapter: str | None
    prompt: str | None
    input: str | None
    output: str
    chat: bool
    benchmark: bool
    source_length: int
    rounds: int
    system: str | None
    raw: bool
    sampling: SamplingConfig
    stops: tuple[str, ...]
    max_new_tokens: int
    batch_size: int
    logprobs: int | None
    dtype: str
    precision: str | None
    force: bool
    own_repetition_penalty: bool

    def with_repetition_penalty(self, penalty: float) -> Options:
        """Return the options with a model's own repetition penalty, unless they have one."""
        if self.own_repetition_penalty:
            return self
        return replace(self, sampling=replace(self.sampling, repetition_penalty=penalty))


def parse(argv: list[str]) -> Options:
    """Return the options on the command line.

    Raises:
        RequestError: they are invalid; all faults at once.
    """
    arguments = parse_arguments(InferOptions, argv)
    return Options(
        engine=arguments.engine,
        model=arguments.model,
        adapter=arguments.adapter,
        prompt=arguments.prompt,
        input=arguments.input,
        output=arguments.output or STANDARD_STREAM,
        chat=arguments.chat,
        benchmark=arguments.benchmark,
        source_length=arguments.source_length,
        rounds=arguments.rounds,
        system=arguments.system,
        raw=arguments.raw,
        sampling=_sampling(arguments),
        stops=arguments.stop,
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
        logprobs=arguments.logprobs,
        dtype=arguments.dtype or backends.default_dtype(),
        precision=arguments.precision,
        force=arguments.force,
        own_repetition_penalty=arguments.repetition_penalty is not None,
    )


def _sampling(arguments: InferOptions) -> SamplingConfig:
    return SamplingConfig(
        greedy=(arguments.decode or _implied(arguments)) == "greedy",
        temperature=1.0 if arguments.temperature is None else arguments.temperature,
        top_k=arguments.top_k or 0,
        top_p=1.0 if arguments.top_p is None else arguments.top_p,
        repetition_penalty=1.0
        if arguments.repetition_penalty is None
        else arguments.repetition_penalty,
        seed=arguments.seed,
    )


def _implied(arguments: InferOptions) -> str:
    return "sampling" if arguments.sampling_flags else "greedy"

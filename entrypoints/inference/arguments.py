"""The arguments of ``infer``, checked together before anything is loaded."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace

from entrypoints.arguments import parser
from entrypoints.inference.sampling import Sampling
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import platforms

__all__ = ["STANDARD_STREAM", "Options", "parse"]

STANDARD_STREAM = "-"
"""As ``--prompt``, ``--input`` or ``--output``: standard input or output."""


_LIKELIEST = 20  # tokens that can be told at each place, as OpenAI's API has it


@dataclass(frozen=True)
class Options:
    """What ``infer`` is asked to do.

    Args:
        engine: what computes: ``dynamic`` or ``static``.
        model: name in ``models/`` or path of the base model; for the static engine an
            exported folder.
        adapter: run or path of a LoRA adapter, or None.
        prompt: a question, or ``-``; this, ``input``, ``chat`` or ``benchmark`` is given.
        input: a file of prompts, or ``-``.
        output: where the answers to ``input`` go; ``-`` is standard output.
        chat: whether to talk.
        benchmark: whether to measure.
        source_length: of each prompt that is measured, in tokens.
        rounds: that are measured.
        system: a system message for prompts that bring none, or None.
        raw: whether the prompt goes to the model as it is, without the chat template.
        sampling: how tokens are chosen.
        stops: texts that end an answer.
        max_new_tokens: an answer's greatest length.
        batch_size: how many prompts of ``input`` are answered at once.
        logprobs: how many of the likeliest tokens are told at each place of an answer to
            ``input``; None for no probabilities.
        dtype: what is computed in: ``float32`` or ``float16``.
        force: whether an existing ``output``, or what is left of another run's, is replaced.
        own_repetition_penalty: whether the command says which one it wants.
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
    sampling: Sampling
    stops: tuple[str, ...]
    max_new_tokens: int
    batch_size: int
    logprobs: int | None
    dtype: str
    force: bool
    own_repetition_penalty: bool

    def with_repetition_penalty(self, penalty: float) -> Options:
        """Return the options with a model's own repetition penalty, unless they have one."""
        if self.own_repetition_penalty:
            return self
        return replace(self, sampling=replace(self.sampling, repetition_penalty=penalty))


def parse(argv: list[str]) -> Options:
    """Return the options that ``argv`` holds.

    Raises:
        RequestError: they are wrong; all that is out of range is named at once.
    """
    found = parser("infer").parse_args(argv)
    problems = [*_wrong_engine(found), *_wrong_combinations(found), *_out_of_range(found)]
    if problems:
        raise RequestError(problems)
    return Options(
        engine=found.engine,
        model=found.model,
        adapter=found.adapter,
        prompt=found.prompt,
        input=found.input,
        output=found.output or STANDARD_STREAM,
        chat=found.chat,
        benchmark=found.benchmark,
        source_length=found.source_length,
        rounds=found.rounds,
        system=found.system,
        raw=found.raw,
        sampling=_sampling(found),
        stops=tuple(found.stop),
        max_new_tokens=found.max_new_tokens,
        batch_size=found.batch_size,
        logprobs=found.logprobs,
        dtype=found.dtype or platforms.usual_dtype(),
        force=found.force,
        own_repetition_penalty=found.repetition_penalty is not None,
    )


def _sampling(found: argparse.Namespace) -> Sampling:
    return Sampling(
        greedy=(found.decode or _implied(found)) == "greedy",
        temperature=1.0 if found.temperature is None else found.temperature,
        top_k=found.top_k or 0,
        top_p=1.0 if found.top_p is None else found.top_p,
        repetition_penalty=1.0 if found.repetition_penalty is None else found.repetition_penalty,
        seed=found.seed,
    )


def _implied(found: argparse.Namespace) -> str:
    return "sampling" if _sampling_options(found) else "greedy"


def _sampling_options(found: argparse.Namespace) -> list[str]:
    return [
        f"--{name.replace('_', '-')}"
        for name in ("temperature", "top_k", "top_p")
        if getattr(found, name) is not None
    ]


def _wrong_engine(found: argparse.Namespace) -> list[Problem]:
    """Return what is wrong with the engine: some are upstream's, and run by recipes."""
    on_cpu = platforms.device(platforms.current()) == "cpu"
    recipes = {
        "fused": "infer-fp16, infer-static-fp16",
        "block": "infer-block-fp16, infer-block-static-fp16",
        "static": "infer-static-fp16",
    }
    problems = []
    if found.engine in ("fused", "block") or (found.engine == "static" and not on_cpu):
        what = f"--engine {found.engine}: its operators are a DCU's"
        if not on_cpu:
            what = f"--engine {found.engine}: on cards it is upstream's program"
        remedy = f"./inv infer --backend dcu --recipe NAME, with {recipes[found.engine]}"
        remedy += "; here: --engine dynamic or static" if on_cpu else "; or --engine dynamic"
        problems.append(Problem(what, "infer", remedy))
    if found.engine == "static" and found.adapter:
        what = "--adapter: a static graph's weights have their adapter in them"
        remedy = "./inv export --model MODEL --adapter RUN --static --output exported/NAME"
        problems.append(Problem(what, "infer", remedy))
    return problems


def _wrong_combinations(found: argparse.Namespace) -> list[Problem]:
    problems = []
    asked = [
        name
        for name, given in (
            ("--prompt", found.prompt is not None),
            ("--input", found.input is not None),
            ("--chat", found.chat),
            ("--benchmark", found.benchmark),
        )
        if given
    ]
    if len(asked) != 1:
        what = " and ".join(asked) or "none of --prompt, --input, --chat and --benchmark"
        problems.append(
            Problem(
                f"{what}: one of the four has to be given",
                "infer",
                "for instance --prompt 'Who are you?'",
            )
        )
    if found.output is not None and found.input is None and not found.benchmark:
        problems.append(
            Problem(
                "--output is for --input: other answers go to standard output",
                remedy="put the prompts into a file: --input prompts.jsonl",
            )
        )
    if found.logprobs is not None and found.input is None:
        problems.append(
            Problem(
                "--logprobs is for --input: other answers are text alone",
                remedy="put the prompts into a file: --input prompts.jsonl",
            )
        )
    if found.raw and (found.system is not None or found.chat):
        problems.append(
            Problem(
                "--raw goes without --system and --chat: they need the template",
                remedy="leave --raw out",
            )
        )
    if found.dtype == "float16" and platforms.usual_dtype() == "float32":
        problems.append(
            Problem(
                "--dtype float16: a CPU computes in float32",
                "infer",
                "leave it out, or --dtype float32",
            )
        )
    if found.decode == "greedy" and _sampling_options(found):
        names = ", ".join(_sampling_options(found))
        problems.append(Problem(f"{names} and --decode greedy", remedy="--decode sampling"))
    return problems


def _out_of_range(found: argparse.Namespace) -> list[Problem]:
    greedy = "for the likeliest token every time: --decode greedy"
    temperature, top_k, top_p = found.temperature, found.top_k, found.top_p
    checks = (
        ("--temperature", temperature, temperature is None or _positive(temperature), "> 0"),
        ("--top-k", top_k, top_k is None or top_k >= 0, "at least 0"),
        ("--top-p", top_p, top_p is None or 0 < top_p <= 1, "in (0, 1]"),
        (
            "--repetition-penalty",
            found.repetition_penalty,
            found.repetition_penalty is None or _positive(found.repetition_penalty),
            "> 0",
        ),
        ("--seed", found.seed, 0 <= found.seed < 2**63, "at least 0 and below 2**63"),
        ("--max-new-tokens", found.max_new_tokens, found.max_new_tokens > 0, "at least 1"),
        ("--batch-size", found.batch_size, 0 < found.batch_size <= 1024, "in 1 … 1024"),
        ("--source-length", found.source_length, found.source_length > 0, "at least 1"),
        ("--rounds", found.rounds, 0 < found.rounds <= 1000, "in 1 … 1000"),
        (
            "--logprobs",
            found.logprobs,
            found.logprobs is None or 0 <= found.logprobs <= _LIKELIEST,
            f"in 0 … {_LIKELIEST}",
        ),
    )
    problems = [
        Problem(
            f"{name} {value}: it has to be {right}",
            "infer",
            greedy if name == "--temperature" and value == 0.0 else f"{name} N, with N {right}",
        )
        for name, value, fits, right in checks
        if not fits
    ]
    if any(not stop for stop in found.stop):
        problems.append(
            Problem(
                "--stop is empty: every answer would end at once",
                "infer",
                "--stop TEXT, or leave it out",
            )
        )
    return problems


def _positive(value: float) -> bool:
    return value > 0 and math.isfinite(value)

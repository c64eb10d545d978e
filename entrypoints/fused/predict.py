"""Answers to prompts in the format of upstream's predictor, and its benchmark."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from entrypoints.fused import prompts
from entrypoints.fused.options import Options
from entrypoints.fused.prompts import Example
from entrypoints.inference.text import Text, all_tokens
from entrypoints.inference.text import load as load_text
from entrypoints.runtime.console import note, phase, report
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.jobs.prompts import listed

__all__ = ["predict"]

_ROUNDS = 3
"""Measured runs after one warm-up; upstream's 100 after 10 are too slow on a CPU."""


class Predictor(Protocol):
    """Generates answers."""

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the tokens of each prompt's answer."""


def predict(options: Options) -> list[list[int]]:
    """Answer the prompts of a run, optionally measure, and return the tokens of the answers.

    Args:
        options: of the run.

    Raises:
        RequestError: prompts are invalid or too long.
    """
    examples = prompts.read(options)
    raw = options.chat_template == "none"
    text = load_text(options.model, options.src_length + 1, raw=raw)
    tokens = _tokens(text, examples, options)
    phase("load the model")
    predictor = _predictor(options, text)
    phase("answer")
    answers: list[list[int]] = []
    with replacing_file(Path(options.output_file)) as stream:
        for at in range(0, len(examples), options.batch_size):
            rows = predictor.generate(tokens[at : at + options.batch_size])
            answers += rows
            for example, row in zip(examples[at : at + len(rows)], rows, strict=True):
                line = {"src": example.source, "tgt": example.target, "output": text.decode(row)}
                print(f"{example.source}\n  {line['output']}", flush=True)
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            report("progress", what="answers", done=at + len(rows), total=len(examples), unit="")
    if options.benchmark:
        phase("measure")
        _measure(predictor, options, text)
    return answers


def _tokens(text: Text, examples: Sequence[Example], options: Options) -> list[list[int]]:
    """Return the tokens of all prompts.

    Raises:
        RequestError: prompts are too long.
    """
    tokens = all_tokens(text, [example.prompt for example in examples])
    problems = [
        Problem(
            f"the prompt has {len(row)} tokens, but --src_length is {options.src_length}",
            example.prompt.where,
            "shorten it, or increase --src_length",
        )
        for row, example in zip(tokens, examples, strict=True)
        if len(row) > options.src_length
    ]
    if problems:
        raise RequestError(listed(problems, "long prompts"))
    return tokens


def _predictor(options: Options, text: Text) -> Predictor:
    if not options.inference_model:
        from entrypoints.fused.plain import PlainPredictor

        return PlainPredictor(options, sorted(text.ends))
    # These modules import the fused layers and the operators.
    from entrypoints.fused import models
    from entrypoints.fused.block import BlockPredictor
    from entrypoints.fused.dense import DensePredictor
    from entrypoints.fused.static import Graph

    config = models.config_of(options)
    model: Any = Graph(options) if options.mode == "static" else models.load(options)
    kind = BlockPredictor if options.block_attn else DensePredictor
    ends = sorted(text.ends)
    return kind(options, config, model, models.length_of(options), ends, ends[0])


def _measure(predictor: Predictor, options: Options, text: Text) -> None:
    """Measure prompts of the maximum length, and print upstream's lines.

    Args:
        predictor: generates answers of the maximum length.
        options: of the run.
        text: the tokenizer.
    """
    row = text.encode("hello world, how are you?", add_special_tokens=False)
    row = (row * options.src_length)[: options.src_length]
    batch = [row] * options.batch_size
    predictor.generate(batch)
    start_time = time.perf_counter()
    tokens = sum(len(each) for _ in range(_ROUNDS) for each in predictor.generate(batch))
    seconds = time.perf_counter() - start_time
    note(f"measured {_ROUNDS} times, after one warm-up")
    print("Avg Elapse time is: ", seconds / _ROUNDS)
    print("Output tokens is: ", tokens)
    print(
        f"Input length is: {options.src_length}, Output length is: {options.max_length}, "
        f"bs is: {options.batch_size}, IPS: {tokens / seconds:.3f} tokens/s, "
        f"QPS: {options.batch_size * _ROUNDS / seconds:.3f} requests/s. "
    )

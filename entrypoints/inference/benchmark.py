"""``infer --benchmark``: speed of prefill and decoding, and memory use."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entrypoints.inference.arguments import Options
from entrypoints.runtime.console import note, phase, report
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.files import replacing_file

if TYPE_CHECKING:  # it imports Paddle
    from entrypoints.inference.protocols import LanguageModel

__all__ = ["check_lengths", "measure", "run", "table"]

_PERCENTILES = (50, 90, 99)


def check_lengths(options: Options, context: int) -> None:
    """Check that prompt and answer fit into the model's context.

    Raises:
        RequestError: they are longer.
    """
    length = options.source_length + options.max_new_tokens
    if length > context:
        raise RequestError(
            f"{options.source_length} source and {options.max_new_tokens} output tokens are"
            f" {length} in total, but the model's context is {context}",
            where="--source-length, --max-new-tokens",
            remedy="reduce --source-length or --max-new-tokens",
        )


def run(options: Options, load: Callable[[], LanguageModel], vocabulary: int) -> None:
    """Measure a model; print a table to standard error and the result as JSON.

    Args:
        options: of the run.
        load: returns the model.
        vocabulary: its vocabulary size.
    """
    before = time.perf_counter()
    phase("load the model")
    model = load()
    loaded = time.perf_counter() - before
    phase("measure")
    result = {
        "engine": options.engine,
        "precision": options.precision,
        "model": options.model,
        "threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
        "load_seconds": round(loaded, 3),
        **measure(model, options, vocabulary),
    }
    for line in table(result):
        note(line)
    text = json.dumps(result, ensure_ascii=False)
    if options.output_file is None:
        print(text)
        return
    with replacing_file(Path(options.output_file)) as stream:
        stream.write(text + "\n")


def measure(model: LanguageModel, options: Options, vocabulary: int) -> dict[str, Any]:
    """Return the times of equal rounds, after one warm-up round.

    The prompts are random tokens and end tokens are ignored, so all rounds have the same
    length. Decoding is greedy.

    Args:
        model: the model.
        options: batch size, lengths, rounds and seed are used.
        vocabulary: its vocabulary size.
    """
    random = np.random.default_rng(options.seed)
    size = (options.batch_size, options.source_length)
    prompts: list[list[int]] = random.integers(vocabulary, size=size).tolist()
    first: list[float] = []
    steps: list[float] = []
    for number in range(options.rounds + 1):
        start_time = time.perf_counter()
        decoding = model.start(prompts)
        tokens = decoding.logits.argmax(axis=-1).tolist()
        times, chosen = [time.perf_counter()], [tokens]
        for _ in range(options.max_new_tokens - 1):
            decoding.step(tokens)
            tokens = decoding.logits.argmax(axis=-1).tolist()
            times.append(time.perf_counter())
            chosen.append(tokens)
        if number:
            first.append(times[0] - start_time)
            steps += np.diff(times).tolist()
        report("progress", what="rounds", done=number, total=options.rounds, unit="")
    batch, source = options.batch_size, options.source_length
    return {
        "batch_size": batch,
        "source_length": source,
        "output_length": options.max_new_tokens,
        "rounds": options.rounds,
        "seconds_to_first_token": _percentiles(first),
        "prefill_tokens_per_second": round(batch * source / float(np.median(first)), 1),
        "seconds_per_step": _percentiles(steps),
        "decode_tokens_per_second": round(batch / float(np.mean(steps)), 1) if steps else None,
        "tokens_per_second": round(
            batch * options.max_new_tokens * options.rounds / (sum(first) + sum(steps)), 1
        ),
        # Shows whether another program generates the same tokens for the same prompts.
        "tokens_sha256": hashlib.sha256(json.dumps(chosen).encode()).hexdigest(),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def table(result: dict[str, Any]) -> list[str]:
    """Return the lines of a table."""
    rows = [
        ("batch, source, output", "{batch_size}, {source_length}, {output_length} tokens"),
        ("engine, threads", "{engine}, {threads}"),
        ("load", "{load_seconds} s"),
        ("to the first token", _shown(result["seconds_to_first_token"])),
        ("reading", "{prefill_tokens_per_second} tokens/s"),
        ("a step", _shown(result["seconds_per_step"])),
        ("decoding", "{decode_tokens_per_second} tokens/s"),
        ("in all", "{tokens_per_second} tokens/s"),
        ("peak memory", "{peak_memory_mib} MiB"),
    ]
    return [f"{name:<22} {text.format(**result)}" for name, text in rows]


def _percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:  # a single token has no step after it
        return None
    return {f"p{p}": round(float(np.percentile(seconds, p)), 5) for p in _PERCENTILES}


def _shown(percentiles: dict[str, float] | None) -> str:
    if percentiles is None:
        return "-"
    return ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in percentiles.items())

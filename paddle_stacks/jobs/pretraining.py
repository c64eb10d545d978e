"""Checks of a pretraining's configuration, model and corpus.

Without them Paddle would fail after every process has created the model, or not at all: a token
beyond the vocabulary reads other memory, and an empty split makes upstream search forever.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import corpus, parallelism, workspace
from paddle_stacks.jobs.schema import Config

__all__ = ["check", "sequences_of_a_step"]

_SAMPLED = 4 * 1024 * 1024  # tokens at both ends of a corpus, whose largest is checked


def check(config: Config, base: Path, parts: Sequence[corpus.Part], world: int) -> None:
    """Check that a pretraining can work.

    Args:
        config: the configuration.
        base: the model's folder.
        parts: the corpora.
        world: number of processes on all nodes.

    Raises:
        RequestError: it cannot. Reports all reasons.
    """
    workspace.check_trainable(base)
    model = parallelism.model_config(base)
    problems = [
        *parallelism.faults(config, base, world),
        *_weights(config, base),
        *(problem for part in parts for problem in _vocabulary(config, model, part)),
        *(problem for part in parts for problem in _splits(config, part)),
    ]
    if problems:
        raise RequestError(problems)


def sequences_of_a_step(config: Config, world: int) -> int:
    """Return the global batch size: sequences per optimizer step in all processes.

    Args:
        config: the configuration.
        world: number of processes on all nodes.
    """
    layout = parallelism.of(config, world)
    rows = config["per_device_train_batch_size"] * config["gradient_accumulation_steps"]
    return int(rows * layout.data * layout.sharding)


def _weights(config: Config, base: Path) -> Iterator[Problem]:
    """Yield the problem of continuing from a model without weights."""
    if config["continue_training"] and not workspace.has_weights(base):
        yield Problem(
            "the model has no weights to continue from",
            str(base),
            'set "continue_training" to false, or fetch a model with weights',
        )


def _vocabulary(config: Config, model: Mapping[str, Any], part: corpus.Part) -> Iterator[Problem]:
    size = model.get("vocab_size", 0)
    largest = _largest_token(part.pair)
    if size and largest >= size:
        yield Problem(
            f"the corpus contains token {largest}, but the model's vocabulary ends at {size - 1}",
            str(part.pair.prefix),
            "it was prepared with another tokenizer: ./inv prepare --model "
            f"{Path(config['model_name_or_path']).name} --force …",
        )


def _largest_token(pair: corpus.Pair) -> int:
    """Return the largest token among those at the beginning and the end of a corpus."""
    code = {2: "H", 4: "i"}[corpus.ITEMS[pair.code]]
    size = corpus.ITEMS[pair.code]
    largest = -1
    with corpus.tokens_path(pair.prefix).open("rb") as stream:
        for start in (0, max(0, pair.tokens - _SAMPLED)):
            stream.seek(start * size)
            tokens = array(code, stream.read(_SAMPLED * size))
            largest = max(largest, max(tokens, default=-1))
    return largest


def _splits(config: Config, part: corpus.Part) -> Iterator[Problem]:
    """Yield the splits with less text than one sample."""
    used = (True, config["do_eval"], config["do_predict"])
    needed = config["max_seq_length"] + 1
    names = ("training", "evaluation", "test")
    counts = _tokens(part.pair, config["split"])
    for name, is_used, tokens in zip(names, used, counts, strict=True):
        if is_used and tokens < needed:
            yield Problem(
                f'"split" {config["split"]} leaves {tokens} tokens for {name}; a sample '
                f"needs {needed}",
                str(part.pair.prefix),
                f'use more text, another "split", or "max_seq_length": {max(1, tokens - 1)}',
            )


def _tokens(pair: corpus.Pair, split: str) -> tuple[int, int, int]:
    """Return the tokens of training, evaluation and test."""
    sizes = corpus.lengths(pair)
    edges = corpus.bounds(split, len(sizes))
    first, second, third = (sum(sizes[start:end]) for start, end in pairwise(edges))
    return first, second, third

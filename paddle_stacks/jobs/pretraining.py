"""What is wrong with a pretraining, as far as its configuration, model and corpus tell.

All of it would end in an error of Paddle's after the model has been made in every process, or
in none at all: an index beyond the vocabulary reads what is not there, and a split without
text is looked for without an end.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import corpus, spreading, workspace
from paddle_stacks.jobs.schema import Config

__all__ = ["check", "sequences_of_a_step"]

_LOOKED_AT = 4 * 1024 * 1024  # tokens at either end of a corpus, for the largest


def check(config: Config, base: Path, parts: Sequence[corpus.Part], world: int) -> None:
    """Refuse a pretraining that cannot work.

    Args:
        config: its configuration.
        base: the model's folder.
        parts: the corpora.
        world: processes of all nodes.

    Raises:
        RequestError: it cannot; all reasons at once.
    """
    workspace.check_trainable(base)
    model = spreading.model_config(base)
    problems = [
        *spreading.faults(config, base, world),
        *_weights(config, base),
        *(problem for part in parts for problem in _vocabulary(config, model, part)),
        *(problem for part in parts for problem in _splits(config, part)),
    ]
    if problems:
        raise RequestError(problems)


def sequences_of_a_step(config: Config, world: int) -> int:
    """Return how many sequences all processes together see in an optimizer step.

    Args:
        config: the configuration.
        world: processes of all nodes.
    """
    spread = spreading.of(config, world)
    rows = config["per_device_train_batch_size"] * config["gradient_accumulation_steps"]
    return int(rows * spread.data * spread.sharding)


def _weights(config: Config, base: Path) -> Iterator[Problem]:
    """Yield that there are none to go on from, or that they would not be used."""
    if config["continue_training"] and not workspace.has_weights(base):
        yield Problem(
            "there are no weights to continue from",
            str(base),
            'set "continue_training" to false, or fetch a model that has them',
        )


def _vocabulary(config: Config, model: Mapping[str, Any], part: corpus.Part) -> Iterator[Problem]:
    size = model.get("vocab_size", 0)
    largest = _largest_token(part.pair)
    if size and largest >= size:
        yield Problem(
            f"the corpus has the token {largest}, and the model's vocabulary ends at {size - 1}",
            str(part.pair.prefix),
            "it was made for another tokenizer: ./inv prepare --model "
            f"{Path(config['model_name_or_path']).name} --force …",
        )


def _largest_token(pair: corpus.Pair) -> int:
    """Return the largest token among those at the beginning and the end of a corpus."""
    code = {2: "H", 4: "i"}[corpus.ITEMS[pair.code]]
    size = corpus.ITEMS[pair.code]
    largest = -1
    with corpus.tokens_path(pair.prefix).open("rb") as stream:
        for start in (0, max(0, pair.tokens - _LOOKED_AT)):
            stream.seek(start * size)
            tokens = array(code, stream.read(_LOOKED_AT * size))
            largest = max(largest, max(tokens, default=-1))
    return largest


def _splits(config: Config, part: corpus.Part) -> Iterator[Problem]:
    """Yield the splits that do not have the text of a single sample."""
    wanted = (True, config["do_eval"], config["do_predict"])
    needed = config["max_seq_length"] + 1
    names = ("training", "evaluation", "test")
    counts = _tokens(part.pair, config["split"])
    for name, is_wanted, tokens in zip(names, wanted, counts, strict=True):
        if is_wanted and tokens < needed:
            yield Problem(
                f'"split" {config["split"]} leaves {tokens} tokens for {name}, and a sample '
                f"takes {needed}",
                str(part.pair.prefix),
                f'more text, another "split", or "max_seq_length" of {max(1, tokens - 1)} at most',
            )


def _tokens(pair: corpus.Pair, split: str) -> tuple[int, int, int]:
    """Return the tokens of training, evaluation and test."""
    sizes = corpus.lengths(pair)
    edges = corpus.bounds(split, len(sizes))
    first, second, third = (sum(sizes[start:end]) for start, end in pairwise(edges))
    return first, second, third

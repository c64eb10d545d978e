"""Samples of a corpus in upstream's order, and the batches of one process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddlenlp.data.causal_dataset import build_train_valid_test_datasets

from entrypoints.training.data_shard import DataShard
from paddle_stacks.jobs.schema import Config

__all__ = ["Samples", "datasets"]

_CACHE = "index-cache"  # in the run's folder: a corpus may be read-only


def datasets(
    corpus: Sequence[str], config: Config, shard: DataShard, run: Path, log: Path
) -> tuple[Any, Any, Any]:
    """Return the samples for training, evaluation and test; None for an empty split.

    Their order is that of upstream's ``causal_dataset`` for the seed, the split and the number
    of samples, so upstream's own program reads the same ones.

    Args:
        corpus: alternating weights and prefixes, or one prefix.
        config: of the pretraining.
        shard: of this process.
        run: the run's folder, for the index.
        log: the file for printed output.
    """
    batch = config["per_device_eval_batch_size"] * shard.world * config["eval_iters"]
    counts = [
        config["per_device_train_batch_size"]
        * shard.world
        * config["max_steps"]
        * config["gradient_accumulation_steps"],
        batch,
        batch,
    ]
    with _output_into(log):
        splits: tuple[Any, Any, Any] = build_train_valid_test_datasets(
            data_prefix=list(corpus),
            data_impl=config["data_impl"],
            splits_string=config["split"],
            train_val_test_num_samples=counts,
            seq_length=config["max_seq_length"],
            seed=config["seed"],
            skip_warmup=True,
            share_folder=True,
            data_cache_path=config["data_cache"] or str(run / _CACHE),
        )
    return splits


@contextmanager
def _output_into(path: Path) -> Iterator[None]:
    """Redirect standard output, which is for the job's result only, to a file.

    The index is built in C++, which writes to the file descriptor.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with path.open("ab") as stream:
            os.dup2(stream.fileno(), 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


class Samples:
    """The batches of a process, from any step on.

    Args:
        dataset: samples of ``max_seq_length`` + 1 tokens, under "text".
        rows: samples per batch.
        batches: the number of batches per process.
        shard: of this process. Batches are assigned in turn, as by upstream's
            ``DistributedBatchSampler``.
    """

    def __init__(self, dataset: Any, rows: int, batches: int, shard: DataShard) -> None:
        self.first = 0
        self._dataset = dataset
        self._rows = rows
        self._batches = batches
        self._shard = shard

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self.first, self._batches):
            start = (number * self._shard.world + self._shard.rank) * self._rows
            yield self._batch(range(start, start + self._rows))

    def _batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Return input tokens and the tokens after them, both [rows, length]."""
        tokens = np.stack([self._dataset[number]["text"] for number in numbers]).astype("int64")
        return {
            "input_ids": paddle.to_tensor(tokens[:, :-1]),
            "labels": paddle.to_tensor(tokens[:, 1:]),
            "tokens": tokens[:, 1:].size,
        }

"""The samples of a corpus, in upstream's order, and the batches that one process sees of them."""

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

from entrypoints.training.share import Share
from paddle_stacks.jobs.schema import Config

__all__ = ["Samples", "datasets"]

_CACHE = "index-cache"  # in the run's folder: a corpus may be read-only


def datasets(
    corpus: Sequence[str], config: Config, share: Share, run: Path, log: Path
) -> tuple[Any, Any, Any]:
    """Return the samples for training, evaluation and test; None where the split has none.

    Which sample is the first, the second and so on is decided by upstream's
    ``causal_dataset``, from the seed, the split and the number of samples wanted, so that a
    run of upstream's own program sees the same ones.

    Args:
        corpus: weights and prefixes in turn, or one prefix.
        config: of the pretraining.
        share: of this process.
        run: the run's folder, which keeps the index.
        log: the file for what is printed.
    """
    batch = config["per_device_eval_batch_size"] * share.world * config["eval_iters"]
    counts = [
        config["per_device_train_batch_size"]
        * share.world
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
    """Send standard output to a file: a job's result has to be alone there.

    The index is made in C++, which says what it does without asking Python where to.
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
    """Batches of a process, from any step on.

    Args:
        dataset: samples of ``max_seq_length`` + 1 tokens, under "text".
        rows: samples in a batch.
        batches: how many there are for each process.
        share: of this process. Of each row of batches that the processes see at a time,
            it has one, as upstream's ``DistributedBatchSampler`` deals them out.
    """

    def __init__(self, dataset: Any, rows: int, batches: int, share: Share) -> None:
        self.first = 0
        self._dataset = dataset
        self._rows = rows
        self._batches = batches
        self._share = share

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self.first, self._batches):
            start = (number * self._share.world + self._share.rank) * self._rows
            yield self._batch(range(start, start + self._rows))

    def _batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Return what a model reads: tokens and the tokens after them, both [rows, length]."""
        tokens = np.stack([self._dataset[number]["text"] for number in numbers]).astype("int64")
        return {
            "input_ids": paddle.to_tensor(tokens[:, :-1]),
            "labels": paddle.to_tensor(tokens[:, 1:]),
            "tokens": tokens[:, 1:].size,
        }

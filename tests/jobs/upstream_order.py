"""Compare the samples that two processes see with upstream's: ``upstream_order.py THEIRS OURS``.

Upstream deals them out with its ``DistributedBatchSampler``; ``run_pretrain.py`` sets both up
as here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from paddlenlp.data.causal_dataset import build_train_valid_test_datasets
from paddlenlp.utils.batch_sampler import DistributedBatchSampler

from entrypoints.pretraining import samples
from entrypoints.training.data_shard import DataShard
from paddle_stacks.jobs import schema

config = schema.load(Path("my.json"), ["max_steps=3"], job="pretrain")
world, rows = 2, config["per_device_train_batch_size"]
batches = config["max_steps"] * config["gradient_accumulation_steps"]
evaluated = config["per_device_eval_batch_size"] * world * config["eval_iters"]
theirs, _, _ = build_train_valid_test_datasets(
    data_prefix=[sys.argv[1]],
    data_impl="mmap",
    splits_string=config["split"],
    train_val_test_num_samples=[rows * world * batches, evaluated, evaluated],
    seq_length=config["max_seq_length"],
    seed=config["seed"],
    skip_warmup=True,
)
for rank in range(world):
    shard = DataShard(rank, world)
    ours, _, _ = samples.datasets([sys.argv[2]], config, shard, Path("run"), Path("log"))
    sampler = DistributedBatchSampler(
        theirs, batch_size=rows, shuffle=False, num_replicas=world, rank=rank, drop_last=False
    )
    for mine, numbers in zip(samples.Samples(ours, rows, batches, shard), sampler, strict=False):
        for row, number in zip(mine["input_ids"].numpy().tolist(), numbers, strict=True):
            text = theirs[number]["text"].tolist()
            assert row == text[:-1], json.dumps([rank, number])
print(f"equal: {world} processes, {batches} batches each")

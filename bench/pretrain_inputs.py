"""Create the inputs of both sides of bench/pretrain.py, in the training image.

``python pretrain_inputs.py CONFIG MODEL SAMPLES.npy BATCHES`` puts random weights into
``models/bench``, a copy of the model, and writes the first batches that the job will make of
the corpus: tokens, [batches, rows, length + 1].
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import paddle
from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM

from entrypoints.pretraining.samples import DataShard, datasets
from paddle_stacks.jobs import corpus, schema

_SEED = 1


def main(config_file: Path, model: str, output: Path, batches: int) -> None:
    """Write the weights and the samples."""
    folder = Path("models", "bench")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(Path("models", model), folder)
    paddle.seed(_SEED)
    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder)))
    network.save_pretrained(str(folder), safe_serialization=True)

    config = schema.load(config_file, [], job="pretrain")
    prefix = corpus.parts(config["input_dir"])[0].pair.prefix
    log = Path("inputs.log")
    train, _, _ = datasets([str(prefix)], config, DataShard(), Path("index"), log)
    rows = config["per_device_train_batch_size"]
    tokens = [train[number]["text"] for number in range(batches * rows)]
    np.save(output, np.stack(tokens).reshape(batches, rows, -1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))

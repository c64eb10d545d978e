"""Write the batches that the fine-tune job will make of a configuration, for the other side.

``python write_batches.py CONFIG OUTPUT STEPS``, in the training image. The output is a
list of batches; a batch is a list of rows, a row its token ids and its labels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from entrypoints.finetuning import batches, packing
from entrypoints.models.tokenizer import load_tokenizer
from entrypoints.training import data
from paddle_stacks.jobs import records, schema, workspace


def main(config_file: Path, output: Path, steps: int) -> None:
    """Write the first ``steps`` batches of the first epoch."""
    config = schema.load(config_file, [])
    tokenizer = load_tokenizer(workspace.find_model(config["model_name_or_path"]))
    encoder = data.Encoder(tokenizer, config["src_length"], config["max_length"])
    encoded = encoder.encode_all(records.read(Path(config["dataset_name_or_path"]), "train"))
    rows = packing.rows(encoded.examples)
    order = batches.Batches(
        rows,
        config["per_device_train_batch_size"],
        batches.Padding(tokenizer.pad_token_id),
        seed=config["seed"],
        accumulation=config["gradient_accumulation_steps"],
    ).order(epoch=0)
    if len(order) < steps:
        sys.exit(f"an epoch of this data has {len(order)} steps, fewer than {steps}")
    documents = [
        [(rows[n].examples[0].input_ids, rows[n].examples[0].labels) for n in numbers]
        for numbers in order[:steps]
    ]
    output.write_text(json.dumps(documents))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

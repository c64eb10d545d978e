"""The transformers side of bench/pretrain.py: the ``Trainer``.

``python trainer_side.py FOLDER SAMPLES.npy SETTINGS.json THREADS`` trains on the samples in their
order, and prints a line of JSON for every step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset, SequentialSampler
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Samples(Dataset):
    """Samples of a token more than a model reads: tokens, and the tokens after them."""

    def __init__(self, path: Path) -> None:
        self._rows = torch.from_numpy(np.load(path).astype("int64")).flatten(0, 1)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self._rows[number]
        return {"input_ids": row[:-1], "labels": row[1:]}


class InOrder(Trainer):
    """The Trainer as it is, with the other side's samples in the other side's order.

    Its own loss shifts labels, and so needs a token more in each row for the same work.
    """

    last_loss = 0.0

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        """Return the mean loss of all tokens."""
        logits = model(input_ids=inputs["input_ids"]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten())
        self.last_loss = loss.detach()
        return loss


class Telling(TrainerCallback):
    """Prints the loss of every step."""

    def __init__(self) -> None:
        self.trainer: InOrder | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Print it; reading the loss waits for nothing on a CPU."""
        line = {"step": state.global_step, "loss": float(self.trainer.last_loss)}
        print(json.dumps(line), flush=True)


def main(folder: Path, samples: Path, settings: dict[str, Any], threads: int) -> None:
    """Train one step per batch with the job's settings."""
    torch.set_num_threads(threads)
    model = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    model.config.use_cache = False
    telling = Telling()
    arguments = TrainingArguments(
        output_dir="/tmp/trainer",
        use_cpu=True,
        per_device_train_batch_size=settings["rows"],
        max_steps=settings["steps"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=settings["adam_beta1"],
        adam_beta2=settings["adam_beta2"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = InOrder(model, arguments, train_dataset=Samples(samples), callbacks=[telling])
    telling.trainer = trainer
    trainer.train()


if __name__ == "__main__":
    chosen = json.loads(Path(sys.argv[3]).read_text())
    main(Path(sys.argv[1]), Path(sys.argv[2]), chosen, int(sys.argv[4]))

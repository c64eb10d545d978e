"""Compare packed rows with the same records one by one: ``python packed.py MODEL DATA``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
from paddlenlp.transformers import AutoModelForCausalLM

from entrypoints.finetuning import batches, packing
from entrypoints.finetuning.model import AnswerHead, as_tensors
from entrypoints.models.tokenizer import load_tokenizer
from entrypoints.training import data
from paddle_stacks.jobs import records

folder = sys.argv[1]
tokenizer = load_tokenizer(Path(folder))
model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
model.eval()
head = AnswerHead(model)
padding = batches.Padding(token=tokenizer.pad_token_id)
encoded = data.Encoder(tokenizer, 96, 128).encode_all(records.read(Path(sys.argv[2]), "train"))


def logits(rows: list[packing.Row]) -> np.ndarray:
    with paddle.no_grad():
        return head.logits(as_tensors(batches.collate(rows, padding)))[0].numpy()


packed = packing.pack(encoded.examples, 128)
together = logits(list(packed))
alone = np.concatenate([logits([row]) for row in packing.rows(encoded.examples)])
# Nothing is compared with itself: the same order, but other batches, masks and positions.
assert together.shape == alone.shape, (together.shape, alone.shape)
print(json.dumps({"largest_difference": float(abs(together - alone).max()), "rows": len(packed)}))

"""Compare base, adapted and merged model: ``python same_logits.py BASE ADAPTER MERGED``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import paddle
from paddlenlp.transformers import AutoModelForCausalLM

from entrypoints.training.adapter import load_adapted

ids = paddle.to_tensor([[1, 17, 230, 9, 512, 77, 301, 4]])


def logits(model) -> paddle.Tensor:
    model.eval()
    with paddle.no_grad():
        out = model(input_ids=ids)
    return out[0] if isinstance(out, tuple) else out


base = logits(AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32"))
adapted = logits(load_adapted(Path(sys.argv[1]), Path(sys.argv[2])))
merged = logits(AutoModelForCausalLM.from_pretrained(sys.argv[3], dtype="float32"))
print(
    json.dumps(
        {
            "unmerged_to_merged": float((adapted - merged).abs().max()),
            "base_to_merged": float((base - merged).abs().max()),
        }
    )
)

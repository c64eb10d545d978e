"""The transformers side of bench/infer.py: one step at a time, on the same tokens.

``python hf_side.py bandwidth`` prints the machine's memory bandwidth in GB/s.
``python hf_side.py FOLDER BATCH SOURCE OUTPUT ROUNDS`` prints the same values as ``infer
--benchmark``. It loops over the model and computes the logits of the last position only, because
``generate()`` is slower.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache

_BYTES = 2**29  # as large as the weights, and no cache


def bandwidth() -> float:
    """Return the highest bandwidth of several sums over memory, in GB/s."""
    values = torch.ones(_BYTES // 4)
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        values.sum()
        seconds.append(time.perf_counter() - begun)
    return _BYTES / min(seconds) / 1e9


@torch.inference_mode()
def measure(folder: str, batch: int, source: int, output: int, rounds: int) -> dict[str, Any]:
    """Measure like ``entrypoints/inference/benchmark.py``."""
    begun = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    loaded = time.perf_counter() - begun
    random = np.random.default_rng(0)
    prompts = torch.from_numpy(random.integers(model.config.vocab_size, size=(batch, source)))
    first, steps, rows = [], [], []
    for number in range(rounds + 1):
        cache = DynamicCache()
        begun = time.perf_counter()
        result = model(prompts, past_key_values=cache, use_cache=True, num_logits_to_keep=1)
        tokens = result.logits[:, -1].argmax(-1)
        times, rows = [time.perf_counter()], [tokens.tolist()]
        for _ in range(output - 1):
            result = model(tokens[:, None], past_key_values=cache, use_cache=True)
            tokens = result.logits[:, -1].argmax(-1)
            times.append(time.perf_counter())
            rows.append(tokens.tolist())
        if number:
            first.append(times[0] - begun)
            steps += np.diff(times).tolist()
    return {
        "load_seconds": loaded,
        "first": first,
        "steps": steps,
        "tokens_sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
    }


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if sys.argv[1] == "bandwidth":
        print(json.dumps(bandwidth()))
    else:
        print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:6]))))

"""Shift and smooth a model, and compare its logits with what they were: ``prepared.py MODEL``.

Prints the largest difference, in parts of the largest logit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from entrypoints.inference import dynamic
from entrypoints.inference import model as models
from entrypoints.inference.decoding import Model
from entrypoints.inference.weights import Weights
from entrypoints.models.llama import paddle_weight_shapes
from entrypoints.quantizing.calibration import Calibration
from entrypoints.quantizing.text import Rows
from paddle_stacks.jobs import schema

folder = Path(sys.argv[1])
before: Any = models.load(folder)
source = Weights(folder)
weights = {name: np.array(source[name]) for name in paddle_weight_shapes(before.config)}
random = np.random.default_rng(0)
rows = tuple(tuple(random.integers(3, before.config.vocab_size, 40)) for _ in range(3))
told = [f"{what}{part}=true" for what in ("shift", "smooth") for part in ("", "_all_linears")]
config = schema.load(None, ["model_name_or_path=m", "output_dir=x", *told], job="quantize")
made = Calibration(before.config, before.rotation, weights, config, Rows("random", rows))
made.prepare()
after = Model(dynamic.Engine(before.config, made.weights), before.config, before.rotation)
one, other = (model.start(rows).logits for model in (before, after))
print(np.abs(one - other).max() / np.abs(one).max())

"""Give a Llama's activations outliers that change nothing: ``python outliers.py FROM TO``.

A norm's channel is a hundred times as large, and the rows that take it a hundredth: the
model computes the same, and one scale for all of its channels tells the others apart no
more. Large models come like that (arXiv:2211.10438, figure 2).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from safetensors.numpy import load_file, save_file

CHANNEL, FACTOR = 7, 100

FED = {
    "input_layernorm": [f"self_attn.{name}_proj" for name in "qkv"],
    "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
}

source, made = map(Path, sys.argv[1:])
shutil.copytree(source, made)
weights = load_file(str(made / "model.safetensors"))
for name in list(weights):
    layer, _, norm = name.removesuffix(".weight").rpartition(".")
    if norm in FED:
        weights[name][CHANNEL] *= FACTOR
        for projection in FED[norm]:
            weights[f"{layer}.{projection}.weight"][CHANNEL] /= FACTOR
save_file(weights, str(made / "model.safetensors"), metadata={"format": "np"})

"""Make an adapter whose factors fit no tiny model: ``python wrong_adapter.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import paddle

folder = Path(sys.argv[1])
folder.mkdir(parents=True)
(folder / "lora_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
layer = "llama.layers.0.self_attn.q_proj"
state = {f"{layer}.lora_A": paddle.ones([96, 2]), f"{layer}.lora_B": paddle.ones([2, 96])}
paddle.save(state, str(folder / "lora_model_state.pdparams"))

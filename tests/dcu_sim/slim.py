"""PaddleSlim's calibration beside ours, on one model and one text: ``python slim.py MODEL``.

PaddleSlim is in the images for a DCU, where upstream's program quantizes with it. Prints
one JSON object of relative differences. Its casts to float16, which a CPU cannot compute
in, are kept at float32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn.quant.format import LinearQuanter
from paddle.utils import unique_name
from paddlenlp.transformers import LlamaForCausalLM
from paddleslim.quant.advanced import Shift, Smooth
from paddleslim.quant.observers import AbsMaxChannelWiseWeightObserver

from entrypoints.inference import model as models
from entrypoints.inference.weights import Weights
from entrypoints.models import int8
from entrypoints.models.llama import paddle_weight_shapes
from entrypoints.quantizing.calibration import Calibration
from entrypoints.quantizing.text import Rows
from paddle_stacks.jobs import schema
from paddle_stacks.jobs.quantizing import GROUPS

LLAMA = {"fused_qkv": False, "parallel_ffn": True}  # get_ptq_model_config, llm/utils/quant.py
NORMS = {"input_layernorm": "self_attn.q_proj", "post_attention_layernorm": "mlp.gate_proj"}

cast = paddle.Tensor.cast
paddle.Tensor.cast = lambda self, dtype: cast(self, "float32" if dtype == "float16" else dtype)


def network(folder: Path) -> Any:
    """Return PaddleNLP's network; PaddleSlim counts its layers from nought by their names."""
    with unique_name.guard():
        return LlamaForCausalLM.from_pretrained(str(folder), dtype="float32")


def run(network: Any, rows: Rows) -> None:
    """Show it the text; what it sees first is only to learn the order of the layers."""
    with paddle.no_grad():
        for row in (rows.rows[0], *rows.rows):
            network(paddle.to_tensor([row]))


def calibrated(folder: Path, rows: Rows, *changes: str) -> Calibration:
    """Return our calibration, done."""
    told = [f"model_name_or_path={folder}", "output_dir=x", *changes]
    config = schema.load(None, told, job="quantize")
    model: Any = models.load(folder)
    weights = Weights(folder)
    arrays = {name: np.array(weights[name]) for name in paddle_weight_shapes(model.config)}
    made = Calibration(model.config, model.rotation, arrays, config, rows)
    made.prepare()
    return made


def apart(one: Any, other: Any) -> float:
    one, other = np.asarray(one).reshape(-1), np.asarray(other).reshape(-1)
    return float(np.abs(one - other).max() / np.abs(other).max())


def places(network: Any, named: dict[str, Any]) -> dict[str, Any]:
    """Return values by the projection whose input they are of, as our network names it."""
    found = {}
    for name, layer in network.named_sublayers():
        if layer.full_name() in named:
            layer_name, _, part = name.rpartition(".")
            first = f"{layer_name}.{NORMS[part]}" if part in NORMS else name
            found[first] = named[layer.full_name()].numpy()
    return found


def shift(folder: Path, rows: Rows) -> dict[str, Any]:
    """Compare what is taken away, and what is added behind the product.

    PaddleSlim averages over steps, and takes a step as often as projections share its
    input: what is shared is alike where the text is one step.
    """
    theirs = network(folder)
    method = Shift(theirs, LLAMA, shift_all_linears=True, sample_function=None)
    run(theirs, rows)
    middles = places(theirs, method.zero_point_dict)
    with paddle.no_grad():
        method.update_weight()
    ours = calibrated(
        folder, rows, "shift=true", "shift_all_linears=true", "shift_sampler=none"
    ).weights
    found: dict[str, list[float]] = {"middles": [], "biases": []}
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    for name, middle in middles.items():
        layer, first = name.rsplit(".", 2)[0], ".".join(name.rsplit(".", 2)[1:])
        if len(rows.rows) > 1 and len(GROUPS[first]) > 1:
            continue
        wrapped = f"{name}.shift_bias"
        norm = next((norm for norm, fed in NORMS.items() if fed == first), "")
        taken = ours[wrapped] if wrapped in ours else ours[f"{layer}.{norm}.bias"]
        found["middles"].append(apart(-taken, middle))
        for member in GROUPS[first]:
            bias = f"{layer}.{member}.bias"
            found["biases"].append(apart(ours[bias], state[bias]))
    return found


def smooth(folder: Path, rows: Rows) -> dict[str, Any]:
    theirs = network(folder)
    method = Smooth(theirs, LLAMA, smooth_all_linears=True)
    run(theirs, rows)
    largest = places(theirs, method.scale_dict)
    before = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    with paddle.no_grad():
        method.update_weight()
    factors = places(theirs, method.smooth_scale_dict)
    ours = calibrated(folder, rows, "smooth=true", "smooth_all_linears=true").weights
    found: dict[str, list[float]] = {"wrapped": [], "of_the_last": []}
    for name, factor in factors.items():
        layer, first = name.rsplit(".", 2)[0], ".".join(name.rsplit(".", 2)[1:])
        members = GROUPS[first]
        if len(members) == 1:
            found["wrapped"].append(apart(1 / ours[f"{name}.smooth_weight"], factor))
        # Of several weights behind a norm PaddleSlim looks at the last one alone.
        rows_of = np.abs(before[f"{layer}.{members[-1]}.weight"]).max(axis=1)
        wanted = int8.smoothing(largest[name].reshape(-1), rows_of)
        found["of_the_last"].append(apart(wanted, factor))
    return found


def weights(folder: Path) -> dict[str, Any]:
    """Compare scales and whole numbers of a weight."""
    found: dict[str, Any] = {"scales": [], "unlike_numbers": 0}
    for name, layer in network(folder).named_sublayers():
        if not name.endswith("_proj"):
            continue
        observer = AbsMaxChannelWiseWeightObserver()._instance(layer)
        observer(layer.weight)
        values = layer.weight.numpy()
        scales = int8.weight_scales(values)
        found["scales"].append(apart(scales, observer.scales().numpy()))
        quanter = LinearQuanter(scales, np.zeros_like(scales), quant_axis=1, bit_length=8)
        whole = quanter(layer.weight).numpy()
        found["unlike_numbers"] += int((whole != int8.quantized(values, scales)).sum())
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    random = np.random.default_rng(0)
    rows = Rows("random", tuple(tuple(random.integers(3, 1000, 24).tolist()) for _ in range(5)))
    told = {
        "shift": shift(folder, rows),
        "shift_of_one_step": shift(folder, Rows("random", rows.rows[:1])),
        "smooth": smooth(folder, rows),
        "weights": weights(folder),
    }
    print(json.dumps(told))

"""What PaddleNLP's own readers make of a quantized model: ``python upstream_scales.py MODEL``.

Its fused model is the one that runs on a card. Its layers need kernels; the code that
takes a checkpoint and its scales apart does not, and runs here, with something in the
layers' place that keeps what it is given. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import types
from collections import defaultdict
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

# The kernels, which a CPU has not; none of them is called.
kernels = types.ModuleType("paddlenlp_ops")
kernels.__spec__ = ModuleSpec("paddlenlp_ops", None)
kernels.__getattr__ = lambda name: None  # type: ignore[method-assign]
sys.modules["paddlenlp_ops"] = kernels

import paddle  # noqa: E402
from paddlenlp.experimental.transformers.llama.modeling import LlamaInferenceModel  # noqa: E402
from paddlenlp.transformers import LlamaConfig  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from entrypoints.inference import quantized  # noqa: E402
from entrypoints.inference.weights import Weights  # noqa: E402
from paddle_stacks.jobs import quantizing  # noqa: E402


class Kept:
    """A parameter: takes a value."""

    dtype = "float32"

    def set_value(self, value: Any) -> None:
        self.value = np.asarray(value)


class Block:
    """The fused layers: lists of parameters, by the names that the reader asks for."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[int, Kept]] = {}

    def init_weight(self) -> None:
        return

    def skip_quant(self, kind: str, layer: int) -> bool:
        return bool((np.asarray(self.weight_scales[kind][layer]) == -1).any())

    def __getattr__(self, name: str) -> Any:
        return self.kept.setdefault(name, defaultdict(Kept))


def read(folder: Path) -> tuple[Block, LlamaConfig]:
    """Return what the reader has put into the fused layers."""
    config = LlamaConfig.from_pretrained(str(folder))
    config.quant_type = config.quantization_config.quant_type
    config.cachekv_int8_type = "static" if "c8" in config.quant_type else None
    config.model_name_or_path = str(folder)
    config.tensor_parallel_degree = 1
    config.single_card_ptq, config.append_attn = True, False
    reader: Any = types.SimpleNamespace(
        quant_type=config.quant_type,
        quant_model_path=str(folder),
        shift=config.quantization_config.shift,
        smooth=config.quantization_config.smooth,
        shift_smooth_all_linears=config.quantization_config.shift_smooth_all_linears,
        use_fake_parameter=False,
        use_weight_only=False,
        config=config,
        hidden_size=config.hidden_size,
        head_size=config.hidden_size // config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        num_layers=config.num_hidden_layers,
        transformer_block=Block(),
        embed_tokens=types.SimpleNamespace(weight=Kept()),
        norm=types.SimpleNamespace(weight=Kept()),
    )
    reader.set_quant_scale = lambda: LlamaInferenceModel.set_quant_scale(reader)
    LlamaInferenceModel.set_state_dict(reader, load_file(str(folder / "model.safetensors")))
    return reader.transformer_block, config


def theirs(block: Block, layer: int, kind: str, entering: np.ndarray) -> np.ndarray:
    """Return what a fused product gives: of whole numbers, and scaled behind it.

    ``fused_transformer_layers.py`` names the parameters; its kernels quantize what enters
    by ``127 * in_scale``, and multiply what they get by ``out_scale``.
    """
    weight, out_scale, in_scale = {
        "qkv": ("qkv_weights", "qkv_out_scales", "qkv_in_scale"),
        "o": ("linear_weights", "linear_out_scales", "out_linear_in_scale"),
        "ffn1": ("ffn1_weights", "ffn1_out_scales", "ffn1_in_scale"),
        "ffn2": ("ffn2_weights", "ffn2_out_scales", "ffn2_in_scale"),
    }[kind]
    matrix = getattr(block, weight)[layer].value
    assert matrix.dtype == np.int8, matrix.dtype
    whole = np.clip(np.rint(entering * 127 * block.act_scales[in_scale][layer]), -128, 127)
    return whole @ matrix.T.astype(np.float32) * getattr(block, out_scale)[layer].value


def ours(weights: Weights, tap: quantized.Rounding, names: list[str], entering: np.ndarray):
    """Return what our network gives for projections that share an input."""
    rounded = tap(names[0], paddle.to_tensor(entering)).numpy()
    return np.concatenate([rounded @ weights[f"{name}.weight"] for name in names], axis=1)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


GROUPS = {"qkv": "self_attn.q_proj", "o": "self_attn.o_proj"}
GROUPS |= {"ffn1": "mlp.gate_proj", "ffn2": "mlp.down_proj"}

# Vectors beside the products, by our network's names and the fused layers' own.
VECTORS = {
    "ln_biases": ["input_layernorm.bias"],
    "ffn_ln_biases": ["post_attention_layernorm.bias"],
    "qkv_biases": [f"self_attn.{name}_proj.bias" for name in "qkv"],
    "ffn1_biases": ["mlp.gate_proj.bias", "mlp.up_proj.bias"],
    "linear_biases": ["self_attn.o_proj.bias"],
    "ffn2_biases": ["mlp.down_proj.bias"],
    "linear_shifts": ["self_attn.o_proj.shift_bias"],
    "linear_smooths": ["self_attn.o_proj.smooth_weight"],
    "ffn2_shifts": ["mlp.down_proj.shift_bias"],
    "ffn2_smooths": ["mlp.down_proj.smooth_weight"],
}


def compared(folder: Path) -> dict[str, Any]:
    """Return how far apart the two readers are."""
    block, config = read(folder)
    weights = Weights(folder)
    extra = quantized.extra_weights(weights)
    heads = config.num_key_value_heads
    tap = quantized.rounding_of(folder, config.num_hidden_layers, heads)
    random = np.random.default_rng(0)
    found: dict[str, Any] = {"products": [], "vectors": {}, "caches": []}
    for layer in range(config.num_hidden_layers):
        for kind, first in GROUPS.items():
            names = [f"llama.layers.{layer}.{each}" for each in quantizing.GROUPS[first]]
            inputs = weights.shape(f"{names[0]}.weight")[0]
            entering = random.normal(size=(5, inputs)).astype(np.float32)
            both = theirs(block, layer, kind, entering), ours(weights, tap, names, entering)
            found["products"].append(difference(*both))
        for name, parts in VECTORS.items():
            if layer in block.kept.get(name, {}):
                wanted = [weights[extra[f"llama.layers.{layer}.{part}"]] for part in parts]
                same = np.array_equal(block.kept[name][layer].value, np.concatenate(wanted))
                found["vectors"].setdefault(name, []).append(bool(same))
        for which in "kv" if config.cachekv_int8_type else "":
            scales = block.kept[f"cache_{which}_out_scales"][layer].value
            step = tap._scales[f"llama.layers.{layer}.self_attn.cache{which}_matmul"] / 127
            found["caches"].append(difference(scales, step.reshape(heads)))
    return found


if __name__ == "__main__":
    paddle.set_default_dtype("float32")
    print(json.dumps(compared(Path(sys.argv[1]))))

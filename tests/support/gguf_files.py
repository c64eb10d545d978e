"""Small GGUF files of a Llama, written by the format's own package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KEY_VALUE_HEADS = 16, 32, 2, 4, 2
BYTES = [chr(n) for n in range(33, 127)] + ["Ġ", "Ċ"]
TOKENS = ["<|end|>", "<|im_start|>", "<|im_end|>", *BYTES, "th", "the", "Ġa"]
MERGES = ["t h", "th e", "Ġ a"]


def interleaved(weight: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Return queries or keys in llama.cpp's layout (``LlamaModel.permute`` of its converter)."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def weights(seed: int = 0, tied: bool = True) -> dict[str, npt.NDArray[np.float32]]:
    """Return random weights with Hugging Face's names and layout."""
    width = HIDDEN // HEADS * KEY_VALUE_HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(TOKENS), HIDDEN)}
    for n in range(LAYERS):
        at = f"model.layers.{n}"
        shapes |= {
            f"{at}.input_layernorm.weight": (HIDDEN,),
            f"{at}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{at}.self_attn.k_proj.weight": (width, HIDDEN),
            f"{at}.self_attn.v_proj.weight": (width, HIDDEN),
            f"{at}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{at}.post_attention_layernorm.weight": (HIDDEN,),
            f"{at}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{at}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{at}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    shapes["model.norm.weight"] = (HIDDEN,)
    if not tied:
        shapes["lm_head.weight"] = (len(TOKENS), HIDDEN)
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def llama_cpp_name(name: str) -> str:
    """Return llama.cpp's name of a weight."""
    outer = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    inner = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    if name in outer:
        return outer[name]
    _, _, layer, *middle, _ = name.split(".")
    return f"blk.{layer}.{inner['.'.join(middle)]}.weight"


def write(
    path: Path,
    *,
    architecture: str = "llama",
    tied: bool = True,
    quantization: gguf.GGMLQuantizationType | None = None,
    drop: tuple[str, ...] = (),
    split: str = "smollm",
    extra: dict[str, int] | None = None,
    merges: list[str] | None = None,
    add_bos: bool = False,
    template: str = "{{ messages }}\n",
) -> dict[str, npt.NDArray[np.float32]]:
    """Write a GGUF file and return its weights, in Hugging Face's names and layout."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_rope_freq_base(50000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(MERGES if merges is None else merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(add_bos)
    writer.add_chat_template(template)
    for key, value in (extra or {}).items():
        writer.add_uint32(key, value)
    tensors = weights(tied=tied)
    for name, weight in tensors.items():
        if llama_cpp_name(name) in drop:
            continue
        heads = HEADS if ".q_proj." in name else KEY_VALUE_HEADS if ".k_proj." in name else 0
        stored = interleaved(weight, heads) if heads else weight
        if quantization is not None and stored.ndim == 2 and stored.shape[-1] % 32 == 0:
            stored = gguf.quants.quantize(stored, quantization)
            writer.add_tensor(llama_cpp_name(name), stored, raw_dtype=quantization)
        else:
            writer.add_tensor(llama_cpp_name(name), stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors

"""A small Llama in Hugging Face's format, written without its libraries."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.gguf_files import (
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KEY_VALUE_HEADS,
    LAYERS,
    MERGES,
    TOKENS,
    weights,
)

TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}

BOS, EOS = TOKENS[1:3]


def tokenizer_file(vocabulary: list[str] | None = None) -> dict[str, Any]:
    """Return a ``tokenizer.json`` with a byte-level vocabulary."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": TOKENS[number], **flags, "special": True}
            for number in range(3)
        ],
        "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(vocabulary or TOKENS)},
            "merges": MERGES,
        },
    }


def begin_with_bos(folder: Path) -> None:
    """Let the tokenizer in ``folder`` begin every text with the token for it."""
    path = folder / "tokenizer.json"
    text = {"Sequence": {"id": "A", "type_id": 0}}
    processor = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": BOS, "type_id": 0}}, text],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BOS: {"id": BOS, "ids": [TOKENS.index(BOS)], "tokens": [BOS]}},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": processor}))


def save(path: Path, tensors: dict[str, npt.NDArray[Any]], dtype: str) -> None:
    """Write a safetensors file according to the format's description."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in tensors.items():
        raw = array.astype(TYPES[dtype]).tobytes()
        offsets = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        body += raw
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)


def write(
    folder: Path,
    *,
    dtype: str = "F32",
    shards: int = 1,
    tied: bool = False,
    config: dict[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    add: dict[str, npt.NDArray[Any]] | None = None,
    tokenizer: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Write a model's folder and return its weights as they are stored."""
    folder.mkdir(parents=True)
    tensors: dict[str, npt.NDArray[Any]] = dict(weights(tied=tied))
    if dtype == "BF16":  # the upper half of a float32
        tensors = {name: (w.view("<u4") >> 16).astype("<u2") for name, w in tensors.items()}
    else:
        tensors = {name: w.astype(TYPES[dtype]) for name, w in tensors.items()}
    stored = {name: w for name, w in tensors.items() if name not in drop} | (add or {})
    names = list(stored)
    if shards == 1:
        save(folder / "model.safetensors", stored, dtype)
    else:
        parts = {
            f"model-{n + 1:05d}-of-{shards:05d}.safetensors": names[n::shards]
            for n in range(shards)
        }
        for file, part in parts.items():
            save(folder / file, {name: stored[name] for name in part}, dtype)
        index = {name: file for file, part in parts.items() for name in part}
        body = {"metadata": {}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(body))
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(TOKENS),
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "transformers_version": "4.46.3",
    }
    (folder / "config.json").write_text(json.dumps(settings | (config or {})))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_file()))
    words = {
        "tokenizer_class": "LlamaTokenizerFast",
        "bos_token": {"content": BOS, "lstrip": False},
        "eos_token": EOS,
        "added_tokens_decoder": {"1": {"content": BOS, "special": True}},
        "chat_template": "{{ messages }}\n",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(words | (tokenizer or {})))
    return tensors


ADAPTER = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["down_proj", "q_proj"],
    "bias": "none",
    "peft_version": "0.21.2",
}


def write_adapter(
    folder: Path,
    *,
    dtype: str = "F32",
    config: dict[str, Any] | None = None,
    add: dict[str, npt.NDArray[Any]] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Write an adapter of :func:`write`'s model in PEFT's format, and return its factors."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    sizes = {"mlp.down_proj": (INTERMEDIATE, HIDDEN), "self_attn.q_proj": (HIDDEN, HIDDEN)}
    tensors: dict[str, npt.NDArray[Any]] = {}
    for layer in range(LAYERS):
        for kind, (inputs, outputs) in sizes.items():
            name = f"base_model.model.model.layers.{layer}.{kind}"
            tensors[f"{name}.lora_A.weight"] = random.normal(size=(4, inputs)).astype("<f4")
            tensors[f"{name}.lora_B.weight"] = random.normal(size=(outputs, 4)).astype("<f4")
    tensors |= add or {}
    stored = tensors
    if dtype == "BF16":
        stored = {name: (w.view("<u4") >> 16).astype("<u2") for name, w in tensors.items()}
    save(folder / "adapter_model.safetensors", stored, dtype)
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | (config or {})))
    return tensors

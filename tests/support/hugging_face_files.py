"""A small Llama as Hugging Face writes it, without its libraries."""

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
    TOKENS,
    weights,
)

TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


def save(path: Path, tensors: dict[str, npt.NDArray[Any]], dtype: str) -> None:
    """Write a safetensors file, by the format's own words."""
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
) -> dict[str, npt.NDArray[Any]]:
    """Write a model's folder and return its weights as they are stored."""
    folder.mkdir(parents=True)
    made: dict[str, npt.NDArray[Any]] = dict(weights(tied=tied))
    if dtype == "BF16":  # the upper half of a float32
        made = {name: (w.view("<u4") >> 16).astype("<u2") for name, w in made.items()}
    else:
        made = {name: w.astype(TYPES[dtype]) for name, w in made.items()}
    stored = {name: w for name, w in made.items() if name not in drop} | (add or {})
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
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    words = {
        "tokenizer_class": "LlamaTokenizerFast",
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "added_tokens_decoder": {"1": {"content": "<s>"}},
        "chat_template": "{{ messages }}\n",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(words | (tokenizer or {})))
    return made

"""Conversion of GGUF files to PaddleNLP checkpoints.

It inverts the names and the layout of queries and keys in ``convert_hf_to_gguf.py`` of
llama.cpp. Quantized weights are dequantized to float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.fetching import gguf_file, gguf_tokenizer
from entrypoints.fetching.gguf_file import Gguf
from entrypoints.models.files import write_json
from entrypoints.models.llama import paddle_names, problems_of, weight_shapes, write_weights
from entrypoints.models.safetensors_file import Tensor
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs.llama_config import LlamaConfig, from_config

__all__ = ["convert"]

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(path: Path, folder: Path) -> None:
    """Write the model of a GGUF file into ``folder``, which exists and is empty.

    Raises:
        RequestError: the file is damaged, or is not a Llama that PaddleNLP supports.
    """
    with gguf_file.opened(path) as source:
        config = _config(source)
        weights = _weights(source, _llama_config(source))
        tokenizer = gguf_tokenizer.files(source)
        write_json(folder / "config.json", config)
        ids = ("bos_token_id", "eos_token_id", "pad_token_id")
        write_json(folder / "generation_config.json", {key: config[key] for key in ids})
        for name, content in tokenizer.items():
            (folder / name).write_bytes(content)
        write_weights(folder, weights)


def _config(source: Gguf) -> dict[str, Any]:
    _check_supported(source)
    llama, get = _llama_config(source), source.get
    eos = get("tokenizer.ggml.eos_token_id", int)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **llama.sizes,
        "max_position_embeddings": get("llama.context_length", int),
        "rope_theta": _shortest(get("llama.rope.freq_base", float, 10000.0)),
        "rms_norm_eps": _shortest(get("llama.attention.layer_norm_rms_epsilon", float)),
        "hidden_act": "silu",
        "tie_word_embeddings": llama.tie_word_embeddings,
        "bos_token_id": get("tokenizer.ggml.bos_token_id", int),
        "eos_token_id": eos,
        # Padding is masked, so any token will do.
        "pad_token_id": get("tokenizer.ggml.padding_token_id", int, eos),
        "use_cache": True,
        "dtype": "float32",
    }


def _check_supported(source: Gguf) -> None:
    where, get = str(source.path), source.metadata.get
    architecture = get("general.architecture")
    if architecture != "llama":
        raise RequestError(
            f'the architecture "{architecture}" of the GGUF file is not supported',
            where=where,
            remedy="supported: llama (Llama 1 to 3.0, SmolLM, TinyLlama, …)",
        )
    problems = []
    if get("llama.expert_count"):
        problems.append(
            Problem(
                "mixtures of experts are not supported",
                where,
                "choose a model without experts: Llama's own architecture",
            )
        )
    if get("llama.rope.scaling.type", "none") != "none" or "rope_freqs.weight" in source.tensors:
        # The file has scaled frequencies instead of the factors that PaddleNLP requires.
        fix = "fetch the model's Hugging Face folder instead"
        problems.append(
            Problem("scaled rotary embeddings are not supported in GGUF files", where, fix)
        )
    if problems:
        raise RequestError(problems)
    width = _llama_config(source).head_dim
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        if get(f"llama.{key}", width) != width:
            problems.append(
                Problem(
                    f"llama.{key} is not hidden_size / num_attention_heads ({width})",
                    where,
                    "choose another model: PaddleNLP's Llama supports no other width of heads",
                )
            )
    if problems:
        raise RequestError(problems)


def _llama_config(source: Gguf) -> LlamaConfig:
    embedding = source.tensors.get("token_embd.weight")
    heads = source.get("llama.attention.head_count", int)
    return from_config(
        {
            "vocab_size": embedding.shape[0] if embedding else 0,
            "hidden_size": source.get("llama.embedding_length", int),
            "intermediate_size": source.get("llama.feed_forward_length", int),
            "num_hidden_layers": source.get("llama.block_count", int),
            "num_attention_heads": heads,
            "num_key_value_heads": source.get("llama.attention.head_count_kv", int, heads),
            "tie_word_embeddings": "output.weight" not in source.tensors,
        },
        where=str(source.path),
    )


def _weights(source: Gguf, config: LlamaConfig) -> list[Tensor]:
    expected = weight_shapes(config)
    origins = {_hugging_face_name(name): name for name in source.tensors}
    shapes = {name: source.tensors[origin].shape for name, origin in origins.items()}
    problems = problems_of(shapes, expected, str(source.path))
    tokens = len(source.get("tokenizer.ggml.tokens", list))
    if tokens > config.vocab_size:
        fault = f"{tokens} tokens, but the embedding has {config.vocab_size} rows"
        problems.append(
            Problem(
                fault,
                str(source.path),
                "get the file again, or the model's Hugging Face folder instead",
            )
        )
    if problems:
        raise RequestError(problems)
    return [_tensor(source, origins[name], name, size, config) for name, size in expected.items()]


def _tensor(
    source: Gguf, origin: str, name: str, size: tuple[int, ...], config: LlamaConfig
) -> Tensor:
    target, transposed = paddle_names(name, size)
    counts = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    heads = counts.get(origin.split(".")[-2], 0)

    def values() -> npt.NDArray[Any]:
        array = source.values(origin)
        if heads:
            array = _unpermuted(array, heads)
        return array.T if transposed else array

    return Tensor(target, "F32", size[::-1] if transposed else size, values)


def _unpermuted(weight: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Return rotary pairs, which llama.cpp interleaves, as two halves.

    Args:
        weight: ``[heads x width, hidden]``.
        heads: how many heads the rows belong to.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _hugging_face_name(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _IN_BLOCK and parts[3] == "weight":
        return f"model.layers.{parts[1]}.{_IN_BLOCK[parts[2]]}.weight"
    return name


def _shortest(value: float) -> float:
    """Return the shortest decimal that is this float32: 1e-05 rather than 9.999999747378752e-06."""
    return float(str(np.float32(value)))

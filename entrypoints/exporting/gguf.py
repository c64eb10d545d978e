"""A PaddleNLP checkpoint as a GGUF file, for llama.cpp and Ollama.

Names, layout and metadata follow ``convert_hf_to_gguf.py`` of llama.cpp.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.exporting.huggingface import check_tokenizer, template_of
from entrypoints.exporting.source import Checkpoint, Weight, converted
from entrypoints.fetching import sentencepiece_file
from entrypoints.fetching.gguf_tokenizer import split_rule
from entrypoints.runtime.progress import in_mib
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files

__all__ = ["SUFFIXES", "check", "write"]

SUFFIXES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "q8_0": "q8_0"}
"""The end of a file's name by its precision."""

_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_BLOCK = {
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
_BLOCK_SIZE, _BLOCK_BYTES = 32, 34  # of q8_0: a float16 scale and 32 numbers
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # llama.cpp's token types


@dataclass(frozen=True)
class _Vocabulary:
    """A tokenizer in GGUF's terms.

    Args:
        model: ``gpt2`` or ``llama``.
        rule: llama.cpp's name of the rule that splits text.
        tokens: in the order of their ids.
        types: of the tokens.
        scores: of the tokens; empty for ``gpt2``.
        merges: of byte pairs; empty for ``llama``.
        adds_bos: whether a text begins with the BOS token.
        adds_prefix: whether a space is put before a text.
    """

    model: str
    rule: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    adds_bos: bool
    adds_prefix: bool


def check(folder: Path) -> None:
    """Check that llama.cpp has tokenizers like a model's.

    Raises:
        RequestError: it has not.
    """
    check_tokenizer(folder)
    _vocabulary(folder)


def write(checkpoint: Checkpoint, path: Path, precision: str, name: str) -> None:
    """Write a checkpoint into a GGUF file; one weight is in memory at a time.

    Args:
        checkpoint: the model.
        path: the file.
        precision: a key of :data:`SUFFIXES`; norms are always float32.
        name: of the model.

    Raises:
        RequestError: llama.cpp has no such tokenizer, or a value is too large for float16.
    """
    import gguf

    types = gguf.GGMLQuantizationType
    kinds = {"float32": types.F32, "float16": types.F16, "bfloat16": types.BF16}
    file_types = {
        "float32": gguf.LlamaFileType.ALL_F32,
        "float16": gguf.LlamaFileType.MOSTLY_F16,
        "bfloat16": gguf.LlamaFileType.MOSTLY_BF16,
        "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    writer = gguf.GGUFWriter(path, "llama")
    try:
        writer.add_name(name)
        writer.add_file_type(file_types[precision])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_network(writer, checkpoint)
        _add_tokenizer(writer, checkpoint)
        tensors: list[Callable[[], npt.NDArray[Any]]] = []
        if frequencies := _rope_factors(checkpoint):
            array = np.array(frequencies, dtype=np.float32)
            writer.add_tensor_info("rope_freqs.weight", array.shape, array.dtype, array.nbytes)
            tensors.append(lambda: array)
        for weight in checkpoint.weights:
            kind = _precision_of(weight, precision)
            shape, dtype = _stored_shape(weight, kind)
            size = math.prod(shape) * dtype.itemsize
            raw = types.Q8_0 if kind == "q8_0" else kinds[kind]
            writer.add_tensor_info(_gguf_name(weight.name), shape, dtype, size, raw)
            tensors.append(_values(weight, kind, checkpoint))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        report, done = in_mib("weights", sum(_stored_sizes(checkpoint, precision))), 0
        for values in tensors:
            array = np.ascontiguousarray(values())
            writer.write_tensor_data(array)
            done += array.nbytes
            report(done)
    finally:
        writer.close()


def _stored_sizes(checkpoint: Checkpoint, precision: str) -> Iterator[int]:
    for weight in checkpoint.weights:
        shape, dtype = _stored_shape(weight, _precision_of(weight, precision))
        yield math.prod(shape) * dtype.itemsize


def _precision_of(weight: Weight, precision: str) -> str:
    """Return the precision of a weight: llama.cpp has norms in float32, and blocks of 32."""
    if len(weight.shape) == 1:
        return "float32"
    if precision == "q8_0" and weight.shape[-1] % _BLOCK_SIZE:
        return "float16"
    return precision


def _stored_shape(weight: Weight, kind: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of the array that is written."""
    if kind == "q8_0":
        *rows, columns = weight.shape
        return (*rows, columns // _BLOCK_SIZE * _BLOCK_BYTES), np.dtype(np.uint8)
    types = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
    return weight.shape, np.dtype(types[kind])


def _values(weight: Weight, kind: str, checkpoint: Checkpoint) -> Callable[[], npt.NDArray[Any]]:
    llama = checkpoint.llama
    counts = {"q_proj": llama.num_attention_heads, "k_proj": llama.num_key_value_heads}
    heads = counts.get(weight.name.split(".")[-2], 0)

    def values() -> npt.NDArray[Any]:
        array = weight.floats()
        if heads:
            array = _permuted(array, heads)
        if kind == "q8_0":
            import gguf

            kinds = gguf.GGMLQuantizationType
            return np.asarray(gguf.quants.quantize(np.ascontiguousarray(array), kinds.Q8_0))
        if kind == "float32":
            return array
        target = {"float16": "F16", "bfloat16": "BF16"}[kind]
        integers = converted(
            np.ascontiguousarray(array).view(np.uint32), "F32", target, weight.name
        )
        return integers.view(np.float16) if kind == "float16" else integers

    return values


def _permuted(weight: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Return the halves of rotary pairs interleaved, as llama.cpp has them.

    Args:
        weight: ``[heads x width, hidden]``.
        heads: how many heads the rows belong to.
    """
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _gguf_name(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{_IN_BLOCK[part]}.weight"


def _add_network(writer: Any, checkpoint: Checkpoint) -> None:
    config, llama = checkpoint.config, checkpoint.llama
    writer.add_block_count(llama.num_hidden_layers)
    writer.add_context_length(llama.max_position_embeddings)
    writer.add_embedding_length(llama.hidden_size)
    writer.add_feed_forward_length(llama.intermediate_size)
    writer.add_head_count(llama.num_attention_heads)
    writer.add_head_count_kv(llama.num_key_value_heads)
    writer.add_layer_norm_rms_eps(llama.rms_norm_eps)
    writer.add_vocab_size(llama.vocab_size)
    writer.add_rope_dimension_count(llama.head_dim)
    writer.add_rope_freq_base(float(config.get("rope_theta", 10000.0)))
    if config.get("rope_scaling_type") == "linear":
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(config.get("rope_scaling_factor", 1.0)))


def _rope_factors(checkpoint: Checkpoint) -> list[float]:
    """Return the divisors of the rotary frequencies in Llama 3.1's scaling; none without it."""
    scaling = checkpoint.config.get("rope_scaling")
    if not scaling:
        return []
    theta = float(checkpoint.config.get("rope_theta", 10000.0))
    factor, original = float(scaling["factor"]), scaling["original_max_position_embeddings"]
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    factors = []
    for index in range(0, checkpoint.llama.head_dim, 2):
        wavelength = 2 * math.pi * theta ** (index / checkpoint.llama.head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def _add_tokenizer(writer: Any, checkpoint: Checkpoint) -> None:
    vocabulary, config = _vocabulary(checkpoint.folder), checkpoint.config
    count = len(vocabulary.tokens)
    spare = range(count, checkpoint.llama.vocab_size)  # rows of the embedding without a token
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.rule)
    writer.add_token_list([*vocabulary.tokens, *(f"[PAD{number}]" for number in spare)])
    writer.add_token_types([*vocabulary.types, *(_UNUSED for _ in spare)])
    if vocabulary.scores:
        writer.add_token_scores([*vocabulary.scores, *(-10000.0 for _ in spare)])
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.model == "llama":
        writer.add_add_space_prefix(vocabulary.adds_prefix)
    writer.add_add_bos_token(vocabulary.adds_bos)
    eos = config.get("eos_token_id", 2)
    ends = eos if isinstance(eos, list) else [eos]
    writer.add_bos_token_id(config.get("bos_token_id", 1))
    writer.add_eos_token_id(ends[0])
    if len(ends) > 1:
        writer.add_eot_token_id(ends[-1])
    if config.get("pad_token_id") is not None:
        writer.add_pad_token_id(config["pad_token_id"])
    template = template_of(checkpoint.folder)
    if template is not None:
        writer.add_chat_template(template)


def _vocabulary(folder: Path) -> _Vocabulary:
    config = json_files.read_object(folder / "tokenizer_config.json")
    path = folder / "tokenizer.json"
    if path.is_file():
        return _byte_level(json_files.read_object(path), config, str(path))
    model = sentencepiece_file.vocabulary(folder / "sentencepiece.bpe.model")
    return _Vocabulary(
        "llama",
        "default",
        list(model.pieces),
        list(model.types),  # sentencepiece's numbers are llama.cpp's
        list(model.scores),
        [],
        bool(config.get("add_bos_token", True)),
        model.dummy_prefix,
    )


def _byte_level(tokenizer: Mapping[str, Any], config: Mapping[str, Any], where: str) -> _Vocabulary:
    rule = split_rule(tokenizer.get("pre_tokenizer"))
    model = tokenizer.get("model") or {}
    if not rule or model.get("type") != "BPE" or tokenizer.get("normalizer"):
        raise RequestError(
            "llama.cpp's name of the tokenizer's rules is not known here",
            where=where,
            remedy="--format huggingface, and convert_hf_to_gguf.py of llama.cpp",
        )
    if not model.get("merges"):
        raise RequestError(
            "the tokenizer has no merges, which llama.cpp requires",
            where=where,
            remedy="--format huggingface",
        )
    tokens: dict[int, tuple[str, int]] = {
        number: (token, _NORMAL) for token, number in model["vocab"].items()
    }
    for entry in tokenizer.get("added_tokens") or []:
        kind = _CONTROL if entry.get("special") else _USER_DEFINED
        tokens[entry["id"]] = (entry["content"], kind)
    names = [tokens.get(number, (f"[PAD{number}]", _UNUSED)) for number in range(max(tokens) + 1)]
    bos = config.get("bos_token")
    return _Vocabulary(
        "gpt2",
        rule,
        [token for token, _ in names],
        [kind for _, kind in names],
        [],
        [each if isinstance(each, str) else " ".join(each) for each in model["merges"]],
        bos is not None and json.dumps(bos) in json.dumps(tokenizer.get("post_processor")),
        False,
    )

"""Conversion of Hugging Face safetensors folders to PaddleNLP checkpoints.

Weights keep their type, linear layers are transposed, and names change, so the result loads
without ``convert_from_torch``. One tensor at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.fetching import huggingface_tokenizer
from entrypoints.fetching.rope import paddle_rope
from entrypoints.models import safetensors_file, source_keys
from entrypoints.models.files import weight_files, write_json
from entrypoints.models.llama import (
    architectures,
    paddle_names,
    problems_of,
    weight_shapes,
    write_weights,
)
from entrypoints.models.safetensors_file import Stored, Tensor
from entrypoints.runtime.console import warn
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs.json_files import read_object
from paddle_stacks.jobs.llama_config import LlamaConfig, from_config

__all__ = ["convert"]

_WEIGHT_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# Keys that are copied to PaddleNLP's configuration, besides the sizes.
_COPIED = ("rms_norm_eps", "initializer_range", "use_cache")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_COMPUTES_DIFFERENTLY = "choose another model: this one would compute something else here"


def convert(source: Path, folder: Path) -> None:
    """Write the model in the folder ``source`` into ``folder``, which exists and is empty.

    A warning lists unknown keys of its JSON files.

    Raises:
        RequestError: files are missing or truncated, or PaddleNLP does not support the model;
            all faults of a kind at once.
    """
    path = source / "config.json"
    config = read_object(path)
    llama = _check_supported(config, path)
    generation = _generation(source)
    _check_keys(source, config, generation)
    rope = paddle_rope(config, str(path))
    stored = _stored(source)
    if llama.tie_word_embeddings:
        _drop_tied_head(stored, source)
    expected = weight_shapes(llama)
    shapes = {name: entry.shape for name, (_, entry) in stored.items()}
    problems = problems_of(shapes, expected, str(source))
    if problems:
        raise RequestError(problems)
    dtype = _common_type(stored, source)
    huggingface_tokenizer.write(source, folder, llama.vocab_size)
    sizes = {**llama.sizes, "max_position_embeddings": llama.max_position_embeddings}
    _write_configs(folder, config, generation, {**rope, **sizes}, dtype)
    write_weights(folder, [_tensor(name, *stored[name]) for name in expected])


def _stored(source: Path) -> dict[str, tuple[Path, Stored]]:
    files = weight_files(source)
    if not files:
        remedy = "get the safetensors: pytorch_model.bin is a pickle and is not read"
        raise RequestError("no safetensors weights", where=str(source), remedy=remedy)
    return {
        name: (path, entry)
        for path in files
        for name, entry in safetensors_file.read_header(path).items()
        # Older checkpoints store the rotary frequencies, which follow from the configuration.
        if not name.endswith("rotary_emb.inv_freq")
    }


def _tensor(name: str, path: Path, entry: Stored) -> Tensor:
    target, transposed = paddle_names(name, entry.shape)

    def values() -> npt.NDArray[Any]:
        with safetensors_file.opened(path) as read:
            array = read(entry)
        return array.T if transposed else array

    return Tensor(target, entry.dtype, entry.shape[::-1] if transposed else entry.shape, values)


def _check_supported(config: Mapping[str, Any], path: Path) -> LlamaConfig:
    where = str(path)
    kind = config.get("model_type")
    if kind != "llama" or "LlamaForCausalLM" not in architectures(config):
        raise RequestError(
            f'the model type "{kind}" with {config.get("architectures")} is not supported',
            where=where,
            remedy="supported: llama with the architecture LlamaForCausalLM",
        )
    llama: LlamaConfig | None = None
    problems: list[Problem] = []
    try:
        llama = from_config({k: v for k, v in config.items() if v is not None}, where=where)
    except RequestError as error:
        problems += error.problems
    else:
        if config.get("head_dim") not in (None, llama.head_dim):
            message = (
                f"head_dim is {config['head_dim']!r:.40}, not hidden_size / num_attention_heads"
                f" ({llama.head_dim}), which PaddleNLP's Llama has"
            )
            problems.append(Problem(message, where, _COMPUTES_DIFFERENTLY))
        problems += _window_problems(config, llama.max_position_embeddings, where)
    if (path.parent / "adapter_config.json").is_file():
        problems.append(
            Problem(
                "the folder has both a model and an adapter (adapter_config.json)",
                str(path.parent),
                "move the adapter to another folder: transformers would merge it",
            )
        )
    if problems or llama is None:
        raise RequestError(problems)
    return llama


def _window_problems(config: Mapping[str, Any], context: int, where: str) -> list[Problem]:
    """Return problems for layers that do not attend to the whole text (transformers 5)."""
    faults = [
        f"{key} is {value!r:.40}, less than the context of {context}"
        for key in ("sliding_window", "attention_chunk_size")
        if (value := config.get(key)) is not None
        and not (isinstance(value, int) and value >= context)
    ]
    kinds = config.get("layer_types") or []
    if any(kind != "full_attention" for kind in kinds):
        faults.append(f"layer_types is {kinds!r:.60}, expected full_attention only")
    return [Problem(fault, where, _COMPUTES_DIFFERENTLY) for fault in faults]


def _generation(source: Path) -> dict[str, Any]:
    path = source / "generation_config.json"
    return read_object(path) if path.is_file() else {}


def _check_keys(source: Path, config: Mapping[str, Any], generation: Mapping[str, Any]) -> None:
    """Reject unsupported values, and warn about unknown keys."""
    path = source / "tokenizer_config.json"
    tokenizer = read_object(path) if path.is_file() else {}
    files = (
        ("config.json", config, source_keys.CONFIG),
        ("generation_config.json", generation, source_keys.GENERATION),
        (path.name, tokenizer, source_keys.TOKENIZER),
    )
    problems = []
    for name, values, rules in files:
        problems += source_keys.unsupported_values(values, rules, str(source / name))
        if unknown := source_keys.unknown_keys(values, rules):
            warn(
                f"{name} has unknown keys, which are ignored:"
                f" {', '.join(key[:60] for key in unknown[:20])}"
            )
    if problems:
        raise RequestError(problems)


def _drop_tied_head(stored: dict[str, tuple[Path, Stored]], source: Path) -> None:
    """Drop a stored head that equals the tied embedding.

    Raises:
        RequestError: they differ. transformers 4 then uses the embedding, and 5 the head.
    """
    head, embedding = stored.pop(_HEAD, None), stored.get(_EMBEDDING)
    if head is None or embedding is None:
        return
    if head[1].dtype != embedding[1].dtype or not np.array_equal(_raw(*head), _raw(*embedding)):
        raise RequestError(
            "tie_word_embeddings is true, and lm_head.weight differs from the embedding",
            where=str(source),
            remedy="check the model's source, and set tie_word_embeddings to false or delete"
            " lm_head.weight",
        )


def _raw(path: Path, entry: Stored) -> npt.NDArray[Any]:
    with safetensors_file.opened(path) as read:
        return read(entry)


def _common_type(stored: Mapping[str, tuple[Path, Stored]], source: Path) -> str:
    dtypes = sorted({entry.dtype for _, entry in stored.values()})
    if len(dtypes) != 1 or dtypes[0] not in _WEIGHT_TYPES:
        raise RequestError(
            f"the weights have the types {', '.join(dtypes)}",
            where=str(source),
            remedy=f"supported: one type for all weights: {', '.join(_WEIGHT_TYPES)}",
        )
    return _WEIGHT_TYPES[dtypes[0]]


def _write_configs(
    folder: Path,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    network: Mapping[str, Any],
    dtype: str,
) -> None:
    """Write both configurations with the keys that PaddleNLP needs only.

    Args:
        folder: of the checkpoint.
        config: of transformers.
        generation: of transformers.
        network: the sizes and the rotary embeddings, with PaddleNLP's keys.
        dtype: of the weights.
    """
    ours: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    ours |= network
    ours |= {key: config[key] for key in _COPIED if config.get(key) is not None}
    ours |= {"hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2}  # LlamaConfig's defaults
    ours |= {key: config[key] for key in _TOKENS if config.get(key) is not None}
    if ours.get("pad_token_id") is None:
        eos = ours["eos_token_id"]
        # Padding is masked, so any token will do.
        ours["pad_token_id"] = eos[0] if isinstance(eos, list) else eos
    ours |= {"dtype": dtype, "tie_word_embeddings": bool(config.get("tie_word_embeddings"))}
    write_json(folder / "config.json", ours)
    # Older models have the keys of generation in config.json, which transformers reads if there
    # is no other file.
    values = generation or config
    written = {
        key: values[key]
        for key, rule in source_keys.GENERATION.items()
        if (rule.used or rule.reason == source_keys.OPTION) and values.get(key) is not None
    }
    for key in _TOKENS:
        written.setdefault(key, ours[key])
    write_json(folder / "generation_config.json", written)

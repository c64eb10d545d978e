"""A Hugging Face safetensors folder as a PaddleNLP checkpoint.

Weights keep their type, linear layers are transposed, names change: the result
loads without ``convert_from_torch``. One tensor is in memory at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from entrypoints.fetching import tensors
from entrypoints.fetching.gguf_tokenizer import MODEL_INPUTS, trimmed_template
from entrypoints.fetching.llama import (
    Shape,
    architectures,
    paddle_names,
    problems_of,
    write_json,
    write_weights,
)
from entrypoints.fetching.tensors import Stored, Tensor
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.json_files import read_object

__all__ = ["convert", "weight_files"]

_INDEX = "model.safetensors.index.json"
_WEIGHT_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
# What the fast tokenizer's own file already says, or what only transformers reads.
_NOT_OURS = ("added_tokens_decoder", "auto_map", "name_or_path", "special_tokens_map_file")


def convert(source: Path, folder: Path) -> None:
    """Write the model in the folder ``source`` into ``folder``, which exists and is empty.

    Raises:
        RequestError: something is missing from it or truncated, or it is not a
            Llama that PaddleNLP can run as it is; every fault of a kind is named.
    """
    config = read_object(source / "config.json")
    shape = _check_supported(config, source / "config.json")
    stored = _stored(source)
    tied = bool(config.get("tie_word_embeddings", False))
    if tied:
        # A tied head may be stored all the same; it is the embedding once more.
        stored.pop("lm_head.weight", None)
    wanted = shape.weights(tied)
    found = {name: entry.shape for name, (_, entry) in stored.items()}
    problems = problems_of(found, wanted, str(source))
    if problems:
        raise RequestError(problems)
    dtype = _common_type(stored, source)
    _write_tokenizer(source, folder)
    _write_configs(source, folder, config, dtype)
    write_weights(folder, [_tensor(name, *stored[name]) for name in wanted])


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files: those its index names, or the only one.

    Raises:
        RequestError: a file that the index names is not there.
    """
    index = folder / _INDEX
    if not index.is_file():
        return [p for p in (folder / "model.safetensors",) if p.is_file()]
    remedy = "get the folder from another source: this one is not to be trusted"
    names = sorted(set(json_files.shards(index, remedy=remedy).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise RequestError(
            [
                Problem(f"{name} is missing", str(folder), "copy it there from the model's source")
                for name in missing
            ]
        )
    return [folder / name for name in names]


def _stored(source: Path) -> dict[str, tuple[Path, Stored]]:
    files = weight_files(source)
    if not files:
        remedy = "weights as pytorch_model.bin are pickles and are not read; get the safetensors"
        raise RequestError("no safetensors weights", where=str(source), remedy=remedy)
    return {
        name: (path, entry)
        for path in files
        for name, entry in tensors.read_header(path).items()
        # Older checkpoints store the rotary frequencies, which the config decides.
        if not name.endswith("rotary_emb.inv_freq")
    }


def _tensor(name: str, path: Path, entry: Stored) -> Tensor:
    target, transposed = paddle_names(name, entry.shape)

    def values() -> npt.NDArray[Any]:
        with tensors.opened(path) as read:
            array = read(entry)
        return array.T if transposed else array

    return Tensor(target, entry.dtype, entry.shape[::-1] if transposed else entry.shape, values)


def _check_supported(config: Mapping[str, Any], path: Path) -> Shape:
    where = str(path)
    kind = config.get("model_type")
    if kind != "llama" or "LlamaForCausalLM" not in architectures(config):
        raise RequestError(
            f'a model of the type "{kind}", {config.get("architectures")}',
            where=where,
            remedy="supported: llama with the architecture LlamaForCausalLM",
        )
    heads = config.get("num_attention_heads", 0)
    shape = Shape(
        vocabulary=config.get("vocab_size", 0),
        hidden=config.get("hidden_size", 0),
        intermediate=config.get("intermediate_size", 0),
        layers=config.get("num_hidden_layers", 0),
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
    )
    problems = shape.problems(where)
    if not problems:
        only = {
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "head_dim": shape.hidden // shape.heads,
        }
        problems = [
            Problem(
                f"{key} is {config[key]!r}; PaddleNLP's Llama has {value!r}",
                where,
                "choose another model: this one would not compute the same here",
            )
            for key, value in only.items()
            if config.get(key) not in (None, value)
        ]
        problems += _scaling_problems(config, where)
    if problems:
        raise RequestError(problems)
    return shape


def _scaling_problems(config: Mapping[str, Any], where: str) -> list[Problem]:
    scaling = config.get("rope_scaling")
    if not scaling:
        return []
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in ("default", "linear", "llama3"):
        return []
    return [
        Problem(
            f'rope_scaling of the type "{kind}" is not supported',
            where,
            "the types default, linear and llama3 are: choose a model with one of them",
        )
    ]


def _common_type(stored: Mapping[str, tuple[Path, Stored]], source: Path) -> str:
    found = sorted({entry.dtype for _, entry in stored.values()})
    if len(found) != 1 or found[0] not in _WEIGHT_TYPES:
        raise RequestError(
            f"weights of the types {', '.join(found)}",
            where=str(source),
            remedy=f"supported: one type for all weights, of {', '.join(_WEIGHT_TYPES)}",
        )
    return _WEIGHT_TYPES[found[0]]


def _write_configs(source: Path, folder: Path, config: Mapping[str, Any], dtype: str) -> None:
    ours = {k: v for k, v in config.items() if k not in ("torch_dtype", "transformers_version")}
    if ours.get("pad_token_id") is None:
        eos = ours.get("eos_token_id")
        # Padding is masked: where a model names no token for it, any one will do.
        ours["pad_token_id"] = eos[0] if isinstance(eos, list) else eos
    scaling = ours.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type")) in ("default", "linear"):
        # PaddleNLP has two keys of its own for it.
        ours.pop("rope_scaling")
        if "factor" in scaling:
            ours |= {"rope_scaling_type": "linear", "rope_scaling_factor": scaling["factor"]}
    ours |= {"dtype": dtype, "tie_word_embeddings": bool(config.get("tie_word_embeddings"))}
    write_json(folder / "config.json", ours)
    path = source / "generation_config.json"
    generation = read_object(path) if path.is_file() else {}
    for key in ("transformers_version", "_from_model_config"):
        generation.pop(key, None)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if generation.get(key) is None and ours.get(key) is not None:
            generation[key] = ours[key]
    write_json(folder / "generation_config.json", generation)


def _write_tokenizer(source: Path, folder: Path) -> None:
    """Write the tokenizer: the fast one where there is one, for it gives the same ids anywhere."""
    path = source / "tokenizer_config.json"
    config = read_object(path) if path.is_file() else {}
    for key in _NOT_OURS:
        config.pop(key, None)
    for key in _SPECIAL:
        # transformers writes a token as a string or as an object.
        token = config.pop(key, None)
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            config[key] = token
    config.setdefault("pad_token", config.get("eos_token"))
    if (source / "tokenizer.json").is_file():
        read_object(source / "tokenizer.json")
        shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
        config |= {"tokenizer_class": "PretrainedTokenizerFast", "model_input_names": MODEL_INPUTS}
    elif (source / "tokenizer.model").is_file():
        shutil.copyfile(source / "tokenizer.model", folder / "sentencepiece.bpe.model")
        config["tokenizer_class"] = "LlamaTokenizer"
    else:
        raise RequestError(
            "no tokenizer: neither tokenizer.json nor tokenizer.model",
            where=str(source),
            remedy="copy one of them there from the model's source",
        )
    config |= {"padding_side": "left", "clean_up_tokenization_spaces": False}
    if isinstance(template := config.get("chat_template"), str):
        config["chat_template"] = trimmed_template(template)
    write_json(folder / "tokenizer_config.json", config)

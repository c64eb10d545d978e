"""A PaddleNLP checkpoint as a Hugging Face folder, for transformers, vLLM and others."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entrypoints.exporting.source import Checkpoint
from entrypoints.models.files import write_json
from entrypoints.models.llama import write_weights
from entrypoints.runtime.console import warn
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import chat_templates, json_files

__all__ = ["check_tokenizer", "template_of", "write"]

_FAST, _PADDLE_PIECES, _PIECES = "tokenizer.json", "sentencepiece.bpe.model", "tokenizer.model"
_CONFIG = "tokenizer_config.json"
# LlamaConfig's defaults, which PaddleNLP and transformers share.
_NETWORK: Mapping[str, Any] = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}


def write(checkpoint: Checkpoint, folder: Path, precision: str) -> None:
    """Write a checkpoint into a folder, which exists.

    Args:
        checkpoint: the model.
        folder: of the Hugging Face model.
        precision: ``float32``, ``float16`` or ``bfloat16``; empty for the type of the weights.

    Raises:
        RequestError: its tokenizer has no counterpart, or a value is too large for float16.
    """
    check_tokenizer(checkpoint.folder)
    config = _config(checkpoint, precision or checkpoint.dtype)
    write_json(folder / "config.json", config)
    _write_generation(checkpoint.folder, folder, config)
    _write_tokenizer(checkpoint.folder, folder)
    write_weights(folder, [weight.tensor(precision) for weight in checkpoint.weights], "pt")


def _config(checkpoint: Checkpoint, dtype: str) -> dict[str, Any]:
    own, llama = checkpoint.config, checkpoint.llama
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **llama.sizes,
        "head_dim": llama.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        **{key: own.get(key, default) for key, default in _NETWORK.items()},
        "tie_word_embeddings": llama.tie_word_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if scaling := own.get("rope_scaling"):
        config["rope_scaling"] = scaling
    elif own.get("rope_scaling_type") == "linear":
        factor = own.get("rope_scaling_factor", 1.0)
        config["rope_scaling"] = {"rope_type": "linear", "type": "linear", "factor": factor}
    return config


def _write_generation(source: Path, folder: Path, config: Mapping[str, Any]) -> None:
    path = source / "generation_config.json"
    generation = json_files.read_object(path) if path.is_file() else {}
    tokens = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / path.name, {**tokens, **generation})


def check_tokenizer(folder: Path) -> None:
    """Check that a model's tokenizer is one that other tools have.

    Raises:
        RequestError: it is not.
    """
    if any((folder / name).is_file() for name in (_FAST, _PADDLE_PIECES)):
        return
    path = folder / _CONFIG
    kind = json_files.read_object(path).get("tokenizer_class") if path.is_file() else None
    raise RequestError(
        f"the tokenizer {kind} has neither {_FAST} nor {_PADDLE_PIECES}",
        where=str(folder),
        remedy="use the PaddleNLP folder as it is",
    )


def template_of(folder: Path) -> str | None:
    """Return the chat template of a model, or None; a warning tells of one that is lost."""
    if file := chat_templates.find(folder):
        return file.source
    if (folder / chat_templates.PADDLE).is_file():
        warn(
            f"{chat_templates.PADDLE} is PaddleNLP's own kind of chat template, which no other "
            "tool reads; the export is without a template"
        )
    return None


def _write_tokenizer(source: Path, folder: Path) -> None:
    config = json_files.read_object(source / _CONFIG)
    if (source / _FAST).is_file():
        shutil.copyfile(source / _FAST, folder / _FAST)
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    else:
        shutil.copyfile(source / _PADDLE_PIECES, folder / _PIECES)
        config["tokenizer_class"] = "LlamaTokenizer"
        config.setdefault("legacy", True)  # as PaddleNLP's
    for name in ("special_tokens_map.json", "added_tokens.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    template = template_of(source)
    config.pop("chat_template", None)
    if template is not None:
        # transformers 5 writes the file, transformers 4 reads the key.
        (folder / chat_templates.JINJA).write_text(template, encoding="utf-8", newline="")
        config["chat_template"] = template
    write_json(folder / _CONFIG, config)

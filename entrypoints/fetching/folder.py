"""Local models: detection of their format, and PaddleNLP's own checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

from entrypoints.fetching import checkpoint, gguf_file, huggingface_tokenizer
from entrypoints.models import safetensors_file
from entrypoints.models.files import weight_files
from entrypoints.runtime.progress import in_mib
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.workspace import PEFT_CONFIG

__all__ = ["copy", "recognize"]

# Excludes optimizer states, logs and other files of a training run.
_PATTERNS = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json",
    "added_tokens.json", "chat_template.json*", "chat_template.jinja", "vocab.*", "merges.txt",
    "sentencepiece.bpe.model", "model*.safetensors", "model*.safetensors.index.json",
    "model_state*.pdparams", "model_state*.pdparams.index.json",
    "*_scales.json",
)  # fmt: skip


def recognize(path: Path) -> str:
    """Return the format of a path by its content: ``gguf``, ``huggingface`` or ``paddlenlp``.

    Raises:
        RequestError: it does not exist, or has another format.
    """
    if not path.exists():
        raise RequestError(
            "the file or folder does not exist",
            where=str(path),
            remedy="copy it there; paths start in the workspace",
        )
    if path.is_file():
        with path.open("rb") as stream:
            if stream.read(len(gguf_file.MAGIC)) == gguf_file.MAGIC:
                return "gguf"
        raise RequestError(
            "not a GGUF file: it does not start with GGUF",
            where=str(path),
            remedy="a model is a GGUF file or a folder with config.json and its weights",
        )
    if any(path.glob("model_state*.pdparams")):
        return "paddlenlp"
    files = weight_files(path)
    if not files and (path / PEFT_CONFIG).is_file():
        raise RequestError(
            "the folder has an adapter (adapter_config.json), not a model",
            where=str(path),
            remedy=f"fetch its base model, and use the folder in a job: --adapter {path}",
        )
    if not files:
        raise RequestError(
            "the folder has no model: neither model*.safetensors nor model_state*.pdparams",
            where=str(path),
            remedy="a model is a GGUF file or a folder with config.json and its weights",
        )
    names = [name for file in files for name in safetensors_file.read_header(file)]
    return "paddlenlp" if any(name.startswith("llama.") for name in names) else "huggingface"


def copy(source: Path, folder: Path) -> None:
    """Copy the PaddleNLP checkpoint in ``source`` into ``folder``, which exists and is empty.

    Raises:
        RequestError: it is incomplete; all faults at once.
    """
    checkpoint.check(source)
    config = json_files.read_object(source / "config.json")
    if isinstance(rows := config.get("vocab_size"), int):
        huggingface_tokenizer.check_ids(source, rows)
    files = sorted({path for pattern in _PATTERNS for path in source.glob(pattern)})
    report, done = in_mib("copy", sum(path.stat().st_size for path in files)), 0
    for path in files:
        shutil.copyfile(path, folder / path.name)
        done += path.stat().st_size
        report(done)

"""Writing what was trained: an adapter, a model, a model with an adapter merged into it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from paddle_stacks.jobs.files import replacing_folder

__all__ = ["BASE", "fingerprint", "save_adapter", "save_merged", "save_model"]

BASE = "base.json"  # in an adapter's folder: the model it was trained on
_WEIGHTS = (".safetensors", ".pdparams", ".index.json")
_WRITTEN_ANEW = ("config.json", "paddle-stacks.json")


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of a model's weight files, in hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name.endswith((".safetensors", ".pdparams")):
            with path.open("rb") as stream:
                while chunk := stream.read(1024 * 1024):
                    digest.update(chunk)
    return digest.hexdigest()


def save_adapter(network: Any, base: Path, output: Path) -> None:
    """Write a LoRA model's adapter alone.

    Args:
        network: a ``LoRAModel``.
        base: the folder of the model it was trained on.
        output: replaced as a whole.
    """
    with replacing_folder(output) as part:
        # Without the base model's config.json: an adapter is not a model.
        network.save_pretrained(str(part), save_model_config=False)
        about = {"model": str(base), "weights_sha256": fingerprint(base)}
        (part / BASE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def save_model(network: Any, companions: tuple[Path, ...], output: Path) -> None:
    """Write a model as a PaddleNLP checkpoint: safetensors, configuration, tokenizer.

    Args:
        network: a ``PretrainedModel``.
        companions: folders whose files that are no weights are copied, and files
            that are; later ones win.
        output: replaced as a whole.
    """
    with replacing_folder(output) as part:
        for place in companions:
            for path in sorted(place.iterdir()) if place.is_dir() else [place]:
                if path.is_file() and not _belongs_to_weights(path.name):
                    shutil.copyfile(path, part / path.name)
        with _operating_system_errors():
            network.save_pretrained(
                str(part), state_dict=_own_weights(network), safe_serialization=True
            )
        for path in part.iterdir():  # safetensors makes its files readable by their owner alone
            path.chmod(0o666 & ~_umask())


def save_merged(network: Any, companions: tuple[Path, ...], output: Path) -> None:
    """Write the base model of a LoRA model with the adapter merged into its weights.

    The LoRA model is taken apart: it cannot be trained any further.
    """
    network.merge()
    network.restore_original_model()
    save_model(network.model, companions, output)


@contextmanager
def _operating_system_errors() -> Iterator[None]:
    """Turn what safetensors makes of a full disk back into an ``OSError``."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)|code: (\d+)", str(error))
        if number is None:
            raise
        code = int(number.group(1) or number.group(2))
        raise OSError(code, os.strerror(code)) from error


def _own_weights(network: Any) -> dict[str, Any]:
    """Return the weights to store: a head that is the embedding is not stored twice."""
    weights = dict(network.state_dict())
    if network.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    return weights


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _belongs_to_weights(name: str) -> bool:
    return name.startswith(".") or name in _WRITTEN_ANEW or name.endswith(_WEIGHTS)

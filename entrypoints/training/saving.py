"""Saving of adapters, models and merged models."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from entrypoints.models.files import BASE, copy_companions, fingerprint
from paddle_stacks.jobs.files import replacing_folder

__all__ = [
    "operating_system_errors",
    "save_adapter",
    "save_distributed",
    "save_distributed_adapter",
    "save_merged",
    "save_model",
    "write_float32",
    "write_merged",
]


def save_adapter(network: Any, base: Path, output: Path) -> None:
    """Save the adapter of a LoRA model.

    Args:
        network: a ``LoRAModel``.
        base: the folder of the base model.
        output: the folder; replaced atomically.
    """
    with replacing_folder(output) as part:
        # Without the base model's config.json, because an adapter is not a model.
        network.save_pretrained(str(part), save_model_config=False)
        _write_about(base, part)


def _write_about(base: Path, part: Path) -> None:
    about = {"model": str(base), "weights_sha256": fingerprint(base)}
    (part / BASE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def save_model(network: Any, companions: tuple[Path, ...], output: Path) -> None:
    """Save a model as a PaddleNLP checkpoint: safetensors, configuration, tokenizer.

    Args:
        network: a ``PretrainedModel``.
        companions: files to copy, and folders whose files other than weights are copied;
            later ones win.
        output: the folder; replaced atomically.
    """
    with replacing_folder(output) as part:
        _write_model(network, companions, part)


def _write_model(network: Any, companions: tuple[Path, ...], part: Path) -> None:
    copy_companions(companions, part)
    with operating_system_errors():
        network.save_pretrained(
            str(part), state_dict=_own_weights(network), safe_serialization=True
        )
    _make_readable(part)


def save_distributed(trainer: Any, companions: tuple[Path, ...], output: Path) -> None:
    """Save a model that may be distributed over processes, like :func:`save_model`.

    Args:
        trainer: a ``Loop`` with the model; all processes must call this.
        companions: as for :func:`save_model`.
        output: the folder; replaced atomically by the first process.
    """
    if trainer.args.world_size == 1:
        save_model(trainer.model, companions, output)
        return

    def finish(part: Path, whole: Path) -> None:
        copy_companions(companions, whole)
        for path in part.iterdir():
            path.rename(whole / path.name)
        _as_one_process(whole / "config.json")
        _make_readable(whole)

    _save_parts(trainer, output, finish)


def save_distributed_adapter(trainer: Any, base: Path, output: Path) -> None:
    """Save an adapter that may be distributed over processes, like :func:`save_adapter`.

    Args:
        trainer: a ``Loop`` with a LoRA model; all processes must call this.
        base: as for :func:`save_adapter`.
        output: the folder; replaced atomically by the first process.
    """
    if trainer.args.world_size == 1:
        save_adapter(trainer.model, base, output)
        return

    def finish(part: Path, whole: Path) -> None:
        import paddle

        weights: dict[str, Any] = {}
        for path in sorted(part.glob("*.safetensors")):
            weights |= load_file(path)
        paddle.save(weights, str(whole / "lora_model_state.pdparams"))
        settings = trainer.model.lora_config
        settings.tensor_parallel_degree = 1
        settings.save_pretrained(str(whole))
        _write_about(base, whole)

    _save_parts(trainer, output, finish)


def _save_parts(trainer: Any, output: Path, finish: Callable[[Path, Path], None]) -> None:
    """Let all processes write their parts, and the first one combine them."""
    part = output.with_name(f".{output.name}.parts")
    with trainer.main_process_first(_replacing(part, output, finish)), operating_system_errors():
        trainer.unified_checkpoint_handler.save_unified_checkpoint(
            trainer.model, trainer.optimizer, str(part)
        )


@contextmanager
def _replacing(part: Path, output: Path, finish: Callable[[Path, Path], None]) -> Iterator[None]:
    """Create a folder for all processes, and replace the output by its combined content."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield
        with replacing_folder(output) as whole:
            finish(part, whole)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _as_one_process(path: Path) -> None:
    """Remove the parallelism from a model's configuration."""
    values = json.loads(path.read_text(encoding="utf-8"))
    remaining = {k: v for k, v in values.items() if "parallel" not in k and "pp_" not in k}
    names = values.get("architectures") or []
    remaining["architectures"] = [name.removesuffix("Pipe") for name in names]
    path.write_text(json.dumps(remaining, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _make_readable(folder: Path) -> None:
    for path in folder.iterdir():  # safetensors makes its files readable by their owner only
        path.chmod(0o666 & ~_umask())


def save_merged(network: Any, companions: tuple[Path, ...], output: Path) -> None:
    """Save the base model of a LoRA model with the adapter merged.

    The LoRA model cannot be trained afterwards.
    """
    with replacing_folder(output) as part:
        write_merged(network, companions, part)


def write_merged(network: Any, companions: tuple[Path, ...], part: Path) -> None:
    """Save like :func:`save_merged`, into an existing empty folder."""
    network.merge()
    network.restore_original_model()
    _write_model(network.model, companions, part)


def write_float32(model: Path, part: Path) -> None:
    """Write a model as safetensors in float32, into a folder that is there and empty.

    Args:
        model: a PaddleNLP checkpoint, such as one with pickled weights.
        part: the folder.
    """
    from paddlenlp.transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(
        str(model), dtype="float32", low_cpu_mem_usage=True
    )
    _write_model(network, (model,), part)


@contextmanager
def operating_system_errors() -> Iterator[None]:
    """Convert the exception of safetensors for a full disk to an ``OSError``."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)|code: (\d+)", str(error))
        if number is None:
            raise
        code = int(number.group(1) or number.group(2))
        raise OSError(code, os.strerror(code)) from error


def _own_weights(network: Any) -> dict[str, Any]:
    """Return the weights to save, without a tied head."""
    weights = dict(network.state_dict())
    if network.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    return weights


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Names in a workspace: the folder that holds ``models/``, ``data/``, ``runs/`` and ``configs/``.

In a container it is ``/workspace``, the working directory from which relative paths start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs import json_files, models, pickles

__all__ = [
    "ADAPTER",
    "MERGED",
    "MODEL",
    "PEFT_CONFIG",
    "WEIGHT_SCALES",
    "check_output",
    "check_trainable",
    "check_weights",
    "find_adapter",
    "find_model",
    "find_run",
    "find_trained",
    "has_weights",
    "is_quantized",
    "run_name_problem",
]

# The outputs of a finished run, below runs/<name>/.
ADAPTER = "adapter"  # LoRA: the adapter alone
MODEL = "model"  # full fine-tuning: the model
MERGED = "merged"  # LoRA with "merge": the base model with the adapter in it

# Beside the weights of a quantized model, which are integers.
WEIGHT_SCALES = "weight_scales.json"

PEFT_CONFIG = "adapter_config.json"
"""The configuration of an adapter in the format of Hugging Face's PEFT."""

_ADAPTER_CONFIGS = ("lora_config.json", PEFT_CONFIG)
# The weights of a checkpoint, sharded or not, and of a static graph.
_WEIGHTS = ("*.safetensors", "*.pdparams", "*.pdiparams")


def find_model(name: str, workspace: Path = Path()) -> Path:
    """Return the folder of a model by its name in ``models/`` or its path.

    The model of a finished run can be named by the run: ``runs/x`` for ``runs/x/model``
    (full fine-tuning) or ``runs/x/merged`` (LoRA with ``merge``). It may have no weights;
    :func:`find_trained` requires them.

    Raises:
        RequestError: the folder does not exist or is not a model.
    """
    for folder in (workspace / "models" / name, workspace / name):
        for output in (folder / MODEL, folder / MERGED):
            if (output / "config.json").is_file():
                return output
        if _is_adapter(folder / ADAPTER):
            raise RequestError(
                f"{folder} is a run with an adapter, not a model",
                where=str(folder),
                remedy=f"--model BASE --adapter {name}, or merge it: "
                f"./inv export --model BASE --adapter {name} --merge --output models/NAME",
            )
        if _is_unfinished_run(folder):
            raise RequestError(
                f"{folder} is an unfinished run: it has no model yet",
                where=str(folder),
                remedy="run the same finetune command again; it continues where it stopped",
            )
        if (folder / "config.json").is_file():
            return folder
        if _is_adapter(folder):
            raise RequestError(
                f"{folder} is an adapter, not a model",
                where=str(folder),
                remedy=f"use it with its base model: --model BASE --adapter {name}",
            )
        if folder.is_dir() and folder != workspace:
            raise RequestError(
                f"{folder} is not a model: it has no config.json",
                where=str(folder),
                remedy=f"fetch it again: {models.fetch_command(name, workspace)} --force",
            )
    here = _folders(workspace / "models")
    hint = did_you_mean(Path(name).name, here)
    command = models.fetch_command(name, workspace)
    remedy = f"{hint} or fetch it: {command}".removeprefix(" or ")
    raise RequestError(f'no model "{name}"', where=str(workspace / "models"), remedy=remedy)


def find_trained(name: str, workspace: Path = Path()) -> Path:
    """Return the folder of a model with weights, as :func:`find_model`.

    Raises:
        RequestError: the folder does not exist, is not a model, or has no weights.
    """
    folder = find_model(name, workspace)
    if not has_weights(folder):
        raise RequestError(
            f"{folder} has no weights: pretrain it first",
            where=str(folder),
            remedy=f'./inv pretrain --config JSON, with "model_name_or_path": "{name}" in it; '
            "its output runs/NAME is a model",
        )
    return folder


def has_weights(folder: Path) -> bool:
    """Return whether a model's folder has weights besides its shape and tokenizer."""
    return any(any(folder.glob(pattern)) for pattern in _WEIGHTS)


def is_quantized(folder: Path) -> bool:
    """Return whether a model's weights are in 8 bits."""
    return (folder / WEIGHT_SCALES).is_file()


def check_trainable(folder: Path) -> None:
    """Check that a model's weights can be changed.

    Raises:
        RequestError: the model is quantized.
    """
    if is_quantized(folder):
        raise RequestError(
            f"{folder} is quantized: its weights can be read by infer, serve and export --static, "
            "but not trained or merged",
            where=str(folder),
            remedy="use the model before quantization",
        )


def check_output(output: Path, sources: Iterable[Path], *, force: bool) -> None:
    """Check that an output folder can be created.

    Args:
        output: the folder.
        sources: the input folders, which it must not replace.
        force: whether it replaces an existing folder.

    Raises:
        RequestError: it cannot.
    """
    if any(output.resolve() in (s.resolve(), *s.resolve().parents) for s in sources):
        raise RequestError(
            "the output folder would replace the input",
            where=str(output),
            remedy="use another one: --output models/NAME",
        )
    if output.exists() and not force:
        raise RequestError(
            "the output folder exists already", where=str(output), remedy="--force replaces it"
        )
    if output.exists() and not output.is_dir():
        raise RequestError("the output is a file", where=str(output), remedy="--output FOLDER")


def check_weights(folder: Path, allowed: Sequence[str] = ()) -> None:
    """Check that weights are safe to load: no pickles, and no index with files elsewhere.

    Args:
        folder: the model's folder.
        allowed: names of pickles that are read anyway.

    Raises:
        RequestError: they are not. Reports all files.
    """
    pickles.check(folder, allowed)
    for index in sorted(folder.glob("*.index.json")):
        json_files.shards(index)


def run_name_problem(name: str, where: str = "--name") -> Problem | None:
    """Return the problem of a name that cannot name a run's folder; None if it can.

    Args:
        name: name of the folder in ``runs/``.
        where: the option with the name.
    """
    printable = name.isprintable() and len(name.encode("utf-8", "replace")) <= 255
    if name and printable and not name.startswith(".") and "/" not in name:
        return None
    return Problem(
        f'"{name}" cannot be the name of a run',
        where,
        f'{where} NAME with letters, digits, "-", "_" and "."; it names a folder in runs/',
    )


def run_folder(name: str | None, config: Path, output_dir: str = "") -> Path:
    """Return the folder of a run, relative to the workspace.

    Args:
        name: name of the run, or None.
        config: the configuration, whose name is the default.
        output_dir: the folder that the configuration sets; empty for none.

    Raises:
        RequestError: the name cannot name a folder.
    """
    if name is None:
        return Path(output_dir or Path("runs", config.stem))
    if problem := run_name_problem(name):
        raise RequestError(problem)
    return Path("runs", name)


def find_run(name: str, workspace: Path = Path()) -> Path:
    """Return the folder of a run by its name in ``runs/`` or its path.

    Raises:
        RequestError: the folder does not exist.
    """
    for folder in (workspace / "runs" / name, workspace / name):
        if folder.is_dir():
            return folder
    hint = did_you_mean(Path(name).name, _folders(workspace / "runs"))
    raise RequestError(
        f'no run "{name}"',
        where=str(workspace / "runs"),
        remedy=hint or "a run is a folder in runs/: ls runs",
    )


def find_adapter(name: str, workspace: Path = Path()) -> Path:
    """Return the folder of a LoRA adapter by its run's name, its run's path or its own path.

    Raises:
        RequestError: the folder does not exist or has no adapter.
    """
    folder = find_run(name, workspace)
    for candidate in (folder / ADAPTER, folder):
        if _is_adapter(candidate):
            return candidate
    if (folder / MODEL).is_dir():
        raise RequestError(
            f"{folder} is a run of full fine-tuning, with a model instead of an adapter",
            where=str(folder),
            remedy=f"--model {folder / MODEL} without --adapter",
        )
    raise RequestError(
        f"{folder} has no adapter: neither {' nor '.join(_ADAPTER_CONFIGS)}",
        where=str(folder),
        remedy="if the run is unfinished, run the same finetune command again; it resumes",
    )


def _is_adapter(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _ADAPTER_CONFIGS)


def _is_unfinished_run(folder: Path) -> bool:
    """Return whether ``config.json`` is a training's instead of a model's."""
    config = folder / "config.json"
    if not config.is_file():
        return False
    text = config.read_text(errors="replace")
    return any(f'"{key}"' in text for key in ("dataset_name_or_path", "input_dir"))


def _folders(parent: Path) -> list[str]:
    if not parent.is_dir():
        return []
    return sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))

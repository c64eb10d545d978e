"""Names in a workspace: the folder that holds ``models/``, ``data/``, ``runs/`` and ``configs/``.

In a container it is ``/workspace``, the working directory; a job resolves every
relative path against it.
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

# What a finished run holds, below runs/<name>/.
ADAPTER = "adapter"  # LoRA: the adapter alone
MODEL = "model"  # full fine-tuning: the model
MERGED = "merged"  # LoRA with "merge": the base model with the adapter in it

# Beside the weights of a model that was quantized, which are whole numbers without it.
WEIGHT_SCALES = "weight_scales.json"

PEFT_CONFIG = "adapter_config.json"
"""In the folder of an adapter that Hugging Face's PEFT wrote."""

_ADAPTER_CONFIGS = ("lora_config.json", PEFT_CONFIG)
# Of a checkpoint, sharded or not, and of a static graph.
_WEIGHTS = ("*.safetensors", "*.pdparams", "*.pdiparams")


def find_model(name: str, workspace: Path = Path()) -> Path:
    """Return the folder of a model given by its name in ``models/`` or by a path.

    A finished run stands for the model it made: ``runs/x`` for ``runs/x/model``
    (full fine-tuning) or ``runs/x/merged`` (LoRA with ``merge``).

    It may have no weights yet: :func:`find_trained` asks for them.

    Raises:
        RequestError: there is no such folder, or it is not a model's.
    """
    for folder in (workspace / "models" / name, workspace / name):
        for made in (folder / MODEL, folder / MERGED):
            if (made / "config.json").is_file():
                return made
        if _is_adapter(folder / ADAPTER):
            raise RequestError(
                f"{folder} is a run that made an adapter, not a model",
                where=str(folder),
                remedy=f"--model BASE --adapter {name}, or merge it: "
                f"./inv export --model BASE --adapter {name} --merge --output models/NAME",
            )
        if _is_unfinished_run(folder):
            raise RequestError(
                f"{folder} is a run that is not finished: it has no model yet",
                where=str(folder),
                remedy="start the same finetune command again: it goes on where it stopped",
            )
        if (folder / "config.json").is_file():
            return folder
        if _is_adapter(folder):
            raise RequestError(
                f"{folder} is an adapter, not a model",
                where=str(folder),
                remedy=f"name the model that it was trained on: --model BASE --adapter {name}",
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
    """Return the folder of a model that has weights, as :func:`find_model`.

    Raises:
        RequestError: there is no such folder, it is not a model's, or it has no weights.
    """
    folder = find_model(name, workspace)
    if not has_weights(folder):
        raise RequestError(
            f"{folder} has no weights: pretrain it first",
            where=str(folder),
            remedy=f'./inv pretrain --config JSON, with "model_name_or_path": "{name}" in it; '
            "what it makes, runs/NAME, is a model",
        )
    return folder


def has_weights(folder: Path) -> bool:
    """Return whether a model's folder has weights, and not just a shape and a tokenizer."""
    return any(any(folder.glob(pattern)) for pattern in _WEIGHTS)


def is_quantized(folder: Path) -> bool:
    """Return whether a model's weights are in eight bits."""
    return (folder / WEIGHT_SCALES).is_file()


def check_trainable(folder: Path) -> None:
    """Refuse a model whose weights cannot be changed any more.

    Raises:
        RequestError: it was quantized.
    """
    if is_quantized(folder):
        raise RequestError(
            f"{folder} was quantized: its weights are whole numbers, which infer, serve and "
            "export --static read, and nothing changes",
            where=str(folder),
            remedy="use the model that it was made from",
        )


def check_output(output: Path, sources: Iterable[Path], *, force: bool) -> None:
    """Check that a folder can be made.

    Args:
        output: the folder.
        sources: the folders that it is made from, which it must not replace.
        force: whether it may replace another one.

    Raises:
        RequestError: it cannot.
    """
    if any(output.resolve() in (s.resolve(), *s.resolve().parents) for s in sources):
        raise RequestError(
            "the output folder would take the place of what it is made from",
            where=str(output),
            remedy="give another one: --output models/NAME",
        )
    if output.exists() and not force:
        raise RequestError(
            "the output folder is there already", where=str(output), remedy="--force replaces it"
        )
    if output.exists() and not output.is_dir():
        raise RequestError("the output is a file", where=str(output), remedy="name a folder")


def check_weights(folder: Path, wanted: Sequence[str] = ()) -> None:
    """Refuse weights that may not be loaded: pickles, and an index that leads out of the folder.

    Args:
        folder: the model's.
        wanted: the names of pickles that are asked for.

    Raises:
        RequestError: there are such; all are named.
    """
    pickles.check(folder, wanted)
    for index in sorted(folder.glob("*.index.json")):
        json_files.shards(index)


def run_name_problem(name: str, where: str = "--name") -> Problem | None:
    """Return why a name cannot be that of a run's folder; None if it can.

    Args:
        name: of the folder in ``runs/``.
        where: the option that it was given by.
    """
    printable = name.isprintable() and len(name.encode("utf-8", "replace")) <= 255
    if name and printable and not name.startswith(".") and "/" not in name:
        return None
    return Problem(
        f'"{name}" cannot be the name of a run',
        where,
        f'{where} NAME: letters, digits, "-", "_" and "."; it is a folder in runs/',
    )


def run_folder(name: str | None, config: Path, output_dir: str = "") -> Path:
    """Return the folder of a run, relative to the workspace.

    Args:
        name: the run's, or None.
        config: the configuration, whose name the run has if nothing else names it.
        output_dir: the configuration's; empty for none.

    Raises:
        RequestError: the name cannot be a folder's.
    """
    if name is None:
        return Path(output_dir or Path("runs", config.stem))
    if problem := run_name_problem(name):
        raise RequestError(problem)
    return Path("runs", name)


def find_run(name: str, workspace: Path = Path()) -> Path:
    """Return the folder of a run given by its name in ``runs/`` or by a path.

    Raises:
        RequestError: there is no such folder.
    """
    for folder in (workspace / "runs" / name, workspace / name):
        if folder.is_dir():
            return folder
    hint = did_you_mean(Path(name).name, _folders(workspace / "runs"))
    raise RequestError(
        f'no run "{name}"',
        where=str(workspace / "runs"),
        remedy=hint or "a run is a folder in runs/: name one that is there",
    )


def find_adapter(name: str, workspace: Path = Path()) -> Path:
    """Return the folder of a LoRA adapter given by a run's name, a run's path or its own path.

    Raises:
        RequestError: there is no such folder, or there is no adapter in it.
    """
    folder = find_run(name, workspace)
    for candidate in (folder / ADAPTER, folder):
        if _is_adapter(candidate):
            return candidate
    if (folder / MODEL).is_dir():
        raise RequestError(
            f"{folder} is a run of full fine-tuning: it made a model, not an adapter",
            where=str(folder),
            remedy=f"--model {folder / MODEL} without --adapter",
        )
    raise RequestError(
        f"there is no adapter in {folder}: neither {' nor '.join(_ADAPTER_CONFIGS)}",
        where=str(folder),
        remedy="is the run finished? start the same finetune command again: it resumes",
    )


def _is_adapter(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _ADAPTER_CONFIGS)


def _is_unfinished_run(folder: Path) -> bool:
    """Return whether ``config.json`` is a training's, and not a model's."""
    config = folder / "config.json"
    if not config.is_file():
        return False
    text = config.read_text(errors="replace")
    return any(f'"{key}"' in text for key in ("dataset_name_or_path", "input_dir"))


def _folders(parent: Path) -> list[str]:
    if not parent.is_dir():
        return []
    return sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))

"""What a training finds when it starts: an earlier run, its checkpoints, or nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrypoints.runtime.console import note, report, warn
from entrypoints.training import checkpoints
from entrypoints.training.request import CONFIG, LIBRARY_LOG, LOSS, METRICS, RESULT
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files, workspace
from paddle_stacks.jobs.files import remove_unfinished, replacing_file
from paddle_stacks.jobs.schema import PARALLEL, Config

__all__ = ["MAY_CHANGE", "Start", "begin", "resume_choice"]

_OUTPUTS = (workspace.ADAPTER, workspace.MODEL, workspace.MERGED)
_FILES = (RESULT, CONFIG, METRICS, LOSS)

MAY_CHANGE = frozenset(
    {
        "disable_tqdm",
        "eval_steps",
        "evaluation_strategy",
        "do_eval",
        "greater_is_better",
        "load_best_model_at_end",
        "logging_first_step",
        "logging_steps",
        "logging_strategy",
        "metric_for_best_model",
        "output_dir",
        "overwrite_output_dir",
        "per_device_eval_batch_size",
        "resume_from_checkpoint",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        *PARALLEL,
    }
)
"""What may differ in a run's continuation: how it is spread, and what is written when."""


@dataclass(frozen=True)
class Start:
    """How a training starts.

    Args:
        finished: whether it has been done already, and nothing is left to do.
        resume: the checkpoint to go on from, or None.
    """

    finished: bool = False
    resume: checkpoints.Checkpoint | None = None


def resume_choice(argument: str | None, config: Config) -> str:
    """Return ``auto``, ``never`` or a checkpoint's name: the argument's choice, or the file's."""
    if argument is not None:
        return argument
    if config["resume_from_checkpoint"]:
        return str(config["resume_from_checkpoint"])
    return "never" if config["overwrite_output_dir"] else "auto"


def begin(
    config: Config,
    run: Path,
    fingerprints: Mapping[str, str],
    resume: str,
    may_change: Collection[str],
    *,
    owner: bool = True,
) -> Start:
    """Look at what is there, refuse what does not belong to it, and make the run's folder ready.

    Args:
        config: of this training.
        run: its folder, held by this process.
        fingerprints: of the data, by split.
        resume: ``auto``, ``never``, or a checkpoint's name.
        may_change: the keys in which a continuation may differ from its beginning.
        owner: whether this process writes; false on all nodes but the first, which share
            the folder and come to the same answer.

    Raises:
        RequestError: this is another training, on other data, or its checkpoint is damaged.
    """
    if owner:
        checkpoints.clear(run)
        for name in (*_OUTPUTS, *_FILES):
            remove_unfinished(run / name)
    checkpoint = None
    if resume == "never":
        if owner:
            _start_over(run)
    else:
        changed = _changed(config, run)
        _refuse_other_training(config, changed, run, may_change)
        if resume == "auto":
            if (run / RESULT).is_file() and not changed:
                _say_finished(run)
                return Start(finished=True)
            checkpoint = _last_whole(run)
        else:
            checkpoint = _named(resume, run)
        _refuse_other_data(checkpoint, fingerprints)
    if owner:
        (run / RESULT).unlink(missing_ok=True)
        with replacing_file(run / CONFIG) as stream:
            stream.write(config.to_json())
    if checkpoint is not None:
        note(f"resuming from {checkpoint.folder}, step {checkpoint.step}")
    return Start(resume=checkpoint)


def _changed(config: Config, run: Path) -> dict[str, tuple[Any, Any]]:
    """Return the keys that differ from the run's last start, with the value then and now."""
    if not (run / CONFIG).is_file():
        return {}
    try:
        before = json_files.read_object(run / CONFIG)
    except RequestError:
        warn(f"{run / CONFIG} cannot be read; it is not compared with this configuration")
        return {}
    now, keys = json.loads(config.to_json()), config.schema.keys
    return {
        key: (before.get(key, keys[key].default), now.get(key, keys[key].default))
        for key in sorted({*before, *now} & set(keys))
        if before.get(key, keys[key].default) != now.get(key, keys[key].default)
    }


def _refuse_other_training(
    config: Config, changed: Mapping[str, tuple[Any, Any]], run: Path, may_change: Collection[str]
) -> None:
    other = {
        key: values
        for key, values in changed.items()
        if key not in may_change and not config.schema.keys[key].inert
    }
    if other:
        raise RequestError(
            [
                Problem(
                    f'"{key}" was {json.dumps(then)} in this run, and is {json.dumps(now)} now',
                    str(run / CONFIG),
                    "give this training a name of its own (--name NAME), "
                    "or start the run over (--resume never)",
                )
                for key, (then, now) in other.items()
            ]
        )


def _refuse_other_data(
    checkpoint: checkpoints.Checkpoint | None, fingerprints: Mapping[str, str]
) -> None:
    if checkpoint is None:
        return
    messages = {
        "train": "the training data is not what this checkpoint was trained on",
        "batch": f"a step of this checkpoint had {checkpoint.data.get('batch')} sequences, and "
        f"now has {fingerprints.get('batch')}: the next ones would not be those that come next",
    }
    for key, message in messages.items():
        if checkpoint.data.get(key) != fingerprints.get(key):
            raise RequestError(
                message,
                where=str(checkpoint.folder),
                remedy="give this training a name of its own (--name NAME), "
                "or start the run over (--resume never)",
            )


def _say_finished(run: Path) -> None:
    note(f"{run} is finished, and nothing in its configuration has changed")
    note("another training: --name NAME; the same again: --resume never; longer: num_train_epochs")
    report("result", **json.loads((run / RESULT).read_text(encoding="utf-8")))


def _last_whole(run: Path) -> checkpoints.Checkpoint | None:
    for folder in checkpoints.found(run):
        fault = checkpoints.damage(folder)
        if not fault:
            return checkpoints.open_whole(folder)
        warn(f"{folder} is passed over: {fault}")
    return None


def _named(name: str, run: Path) -> checkpoints.Checkpoint:
    folder = next((path for path in (run / name, Path(name)) if path.is_dir()), None)
    if folder is None:
        there = ", ".join(path.name for path in checkpoints.found(run)) or "none"
        raise RequestError(f'no checkpoint "{name}"', where=str(run), remedy=f"there: {there}")
    fault = checkpoints.damage(folder)
    if fault:
        raise RequestError(
            f"the checkpoint is damaged: {fault}",
            where=str(folder),
            remedy="--resume auto takes the last whole one",
        )
    return checkpoints.open_whole(folder)


def _start_over(run: Path) -> None:
    """Remove what an earlier training left in the run, and nothing else."""
    checkpoints.remove(checkpoints.found(run))
    for name in _OUTPUTS:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(run / name)
    for name in (*_FILES, LIBRARY_LOG):
        (run / name).unlink(missing_ok=True)

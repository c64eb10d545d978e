"""The start of a training: from a checkpoint, from the beginning, or not at all."""

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
"""The keys that may change when a run resumes: parallelism, logging and saving."""


@dataclass(frozen=True)
class Start:
    """The start of a training.

    Args:
        finished: whether the run is already finished.
        resume: the checkpoint to resume from, or None.
    """

    finished: bool = False
    resume: checkpoints.Checkpoint | None = None


def resume_choice(argument: str | None, config: Config) -> str:
    """Return ``auto``, ``never`` or a checkpoint's name, from the argument or the configuration."""
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
    """Check an existing run, prepare its folder, and return how to start.

    Args:
        config: of this training.
        run: the run's folder, locked by this process.
        fingerprints: of the data, by split.
        resume: ``auto``, ``never``, or a checkpoint's name.
        may_change: the keys that may change when a run resumes.
        owner: whether this process writes; false on all nodes but the first, which share
            the folder and come to the same result.

    Raises:
        RequestError: the run has another configuration or other data, or the checkpoint is
            damaged.
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
        _check_same_training(config, changed, run, may_change)
        if resume == "auto":
            if (run / RESULT).is_file() and not changed:
                _report_finished(run)
                return Start(finished=True)
            checkpoint = _last_complete(run)
        else:
            checkpoint = _named(resume, run)
        _check_same_data(checkpoint, fingerprints)
    if owner:
        (run / RESULT).unlink(missing_ok=True)
        with replacing_file(run / CONFIG) as stream:
            stream.write(config.to_json())
    if checkpoint is not None:
        note(f"resuming from {checkpoint.folder}, step {checkpoint.step}")
    return Start(resume=checkpoint)


def _changed(config: Config, run: Path) -> dict[str, tuple[Any, Any]]:
    """Return the keys that changed since the run's last start, with old and new values."""
    if not (run / CONFIG).is_file():
        return {}
    try:
        before = json_files.read_object(run / CONFIG)
    except RequestError:
        warn(f"{run / CONFIG} cannot be read and is not compared with this configuration")
        return {}
    now, keys = json.loads(config.to_json()), config.schema.keys
    return {
        key: (before.get(key, keys[key].default), now.get(key, keys[key].default))
        for key in sorted({*before, *now} & set(keys))
        if before.get(key, keys[key].default) != now.get(key, keys[key].default)
    }


def _check_same_training(
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
                    f'"{key}" was {json.dumps(then)} in this run, but is {json.dumps(now)} now',
                    str(run / CONFIG),
                    "use another name for this training (--name NAME), "
                    "or start the run again (--resume never)",
                )
                for key, (then, now) in other.items()
            ]
        )


def _check_same_data(
    checkpoint: checkpoints.Checkpoint | None, fingerprints: Mapping[str, str]
) -> None:
    if checkpoint is None:
        return
    messages = {
        "train": "the training data has changed since this checkpoint",
        "batch": f"this checkpoint has {checkpoint.data.get('batch')} sequences per step, but this "
        f"configuration has {fingerprints.get('batch')}: the order of the data would change",
    }
    for key, message in messages.items():
        if checkpoint.data.get(key) != fingerprints.get(key):
            raise RequestError(
                message,
                where=str(checkpoint.folder),
                remedy="use another name for this training (--name NAME), "
                "or start the run again (--resume never)",
            )


def _report_finished(run: Path) -> None:
    note(f"{run} is finished, and its configuration has not changed")
    note(
        "--name NAME starts another run, --resume never repeats this one, and a larger "
        "num_train_epochs extends it"
    )
    report("result", **json.loads((run / RESULT).read_text(encoding="utf-8")))


def _last_complete(run: Path) -> checkpoints.Checkpoint | None:
    for folder in checkpoints.find_all(run):
        fault = checkpoints.damage(folder)
        if not fault:
            return checkpoints.open_complete(folder)
        warn(f"{folder} is skipped: {fault}")
    return None


def _named(name: str, run: Path) -> checkpoints.Checkpoint:
    folder = next((path for path in (run / name, Path(name)) if path.is_dir()), None)
    if folder is None:
        names = ", ".join(path.name for path in checkpoints.find_all(run)) or "none"
        raise RequestError(f'no checkpoint "{name}"', where=str(run), remedy=f"available: {names}")
    fault = checkpoints.damage(folder)
    if fault:
        raise RequestError(
            f"the checkpoint is damaged: {fault}",
            where=str(folder),
            remedy="--resume auto uses the last complete one",
        )
    return checkpoints.open_complete(folder)


def _start_over(run: Path) -> None:
    """Remove the files of an earlier training, and nothing else."""
    checkpoints.remove(checkpoints.find_all(run))
    for name in _OUTPUTS:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(run / name)
    for name in (*_FILES, LIBRARY_LOG):
        (run / name).unlink(missing_ok=True)

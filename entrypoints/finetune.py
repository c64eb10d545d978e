"""The ``finetune`` job: LoRA or full supervised fine-tuning from a JSON configuration."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entrypoints.arguments import parser
from entrypoints.console import note, phase, report, warn
from entrypoints.training import checkpoints
from entrypoints.training.disk import writing_below
from entrypoints.training.imports import spare
from entrypoints.training.lock import locked
from entrypoints.training.quiet import libraries_log_to
from entrypoints.training.request import (
    CONFIG,
    LIBRARY_LOG,
    LOSS,
    METRICS,
    NO_TEMPLATE,
    RESULT,
    Request,
)
from entrypoints.training.stop import StopSignal
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import platforms, records, schema, workspace
from paddle_stacks.jobs.files import replacing_file

__all__ = ["main"]

# What may change between a run and its continuation: how often, how long, what else is written.
_MAY_CHANGE = {
    "disable_tqdm",
    "eval_steps",
    "evaluation_strategy",
    "do_eval",
    "greater_is_better",
    "load_best_model_at_end",
    "logging_first_step",
    "logging_steps",
    "logging_strategy",
    "max_evaluate_steps",
    "max_steps",
    "merge",
    "metric_for_best_model",
    "num_train_epochs",
    "output_dir",
    "overwrite_output_dir",
    "per_device_eval_batch_size",
    "resume_from_checkpoint",
    "save_steps",
    "save_strategy",
    "save_total_limit",
}


def main(argv: list[str]) -> int:
    """Run the job; the folder of what was trained goes to standard output."""
    arguments = parser("finetune").parse_args(argv)
    config = schema.load(arguments.config, arguments.set, backend=platforms.current())
    for text in config.notes:
        note(text)
    paths = _paths(config)
    run = _run_folder(arguments.name, arguments.config, config)
    phase("check the data")
    counts = records.check(paths["data"], dev=config["do_eval"])
    note(f"{counts.train} records to train on, {counts.dev} to evaluate on")
    with writing_below(run), locked(run), StopSignal(arguments.grace) as stop:
        resume = _resume_choice(arguments.resume, config)
        request = _prepared(config, run, paths, resume)
        if request is None:
            print(json.loads((run / RESULT).read_text(encoding="utf-8"))["output"])
            return 0
        phase("start PaddlePaddle")
        spare()
        libraries_log_to(run / LIBRARY_LOG)
        from entrypoints.training.run import train

        print(train(request, stop))
    return 0


def _paths(config: schema.Config) -> dict[str, Path]:
    """Return the folders that the configuration names, which all have to be there."""
    faults: list[Problem] = []
    paths = {"data": Path(config["dataset_name_or_path"])}
    wanted = {"model": "model_name_or_path", "tokenizer": "tokenizer_name_or_path"}
    for part, key in wanted.items():
        try:
            paths[part] = workspace.find_model(config[key] or config["model_name_or_path"])
        except RequestError as error:
            faults += error.problems if part == "model" or config[key] else []
    if config["lora_path"]:
        try:
            paths["adapter"] = workspace.find_adapter(config["lora_path"])
        except RequestError as error:
            faults += error.problems
    template = config["chat_template"]
    if template not in (None, NO_TEMPLATE, config["model_name_or_path"]):
        path = Path(template)
        paths["template"] = path / "chat_template.json" if path.is_dir() else path
        if not paths["template"].is_file():
            faults.append(Problem("there is no such chat template", f'"chat_template": "{path}"'))
    if faults:
        raise RequestError(faults)
    return paths


def _run_folder(name: str | None, config_path: Path, config: schema.Config) -> Path:
    if name is not None:
        if not name or name.startswith(".") or "/" in name:
            raise RequestError(
                f'"{name}" cannot be the name of a run', where="--name", remedy="letters and digits"
            )
        return Path("runs", name)
    return Path(config["output_dir"] or Path("runs", config_path.stem))


def _resume_choice(argument: str | None, config: schema.Config) -> str:
    if argument is not None:
        return argument
    if config["resume_from_checkpoint"]:
        return str(config["resume_from_checkpoint"])
    return "never" if config["overwrite_output_dir"] else "auto"


def _prepared(
    config: schema.Config, run: Path, paths: Mapping[str, Path], resume: str
) -> Request | None:
    """Return what to train, or None if that has been done already."""
    checkpoints.clear(run)
    fingerprints = {
        split: records.fingerprint(paths["data"], split)
        for split in (("train", "dev") if config["do_eval"] else ("train",))
    }
    checkpoint = None
    if resume == "never":
        _start_over(run)
    else:
        changed = _changed(config, run)
        _refuse_other_training(changed, run)
        if resume == "auto":
            if (run / RESULT).is_file() and not changed:
                _say_finished(run)
                return None
            checkpoint = _last_whole(run)
        else:
            checkpoint = _named(resume, run)
        _refuse_other_data(checkpoint, fingerprints)
    (run / RESULT).unlink(missing_ok=True)
    with replacing_file(run / CONFIG) as stream:
        stream.write(config.to_json())
    if checkpoint is not None:
        note(f"resuming from {checkpoint.folder}, step {checkpoint.step}")
    return Request(
        config=config,
        run=run,
        base=paths["model"],
        tokenizer=paths["tokenizer"],
        template=(paths["template"],) if "template" in paths else (),
        adapter=paths.get("adapter"),
        data=paths["data"],
        fingerprints=fingerprints,
        resume=checkpoint,
    )


def _changed(config: schema.Config, run: Path) -> dict[str, tuple[Any, Any]]:
    """Return the keys that differ from the run's last start, with the value then and now."""
    try:
        before = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        warn(f"{run / CONFIG} cannot be read; it is not compared with this configuration")
        return {}
    now = json.loads(config.to_json())
    return {
        key: (before.get(key, schema.KEYS[key].default), now.get(key, schema.KEYS[key].default))
        for key in sorted({*before, *now} & set(schema.KEYS))
        if before.get(key, schema.KEYS[key].default) != now.get(key, schema.KEYS[key].default)
    }


def _refuse_other_training(changed: Mapping[str, tuple[Any, Any]], run: Path) -> None:
    other = {
        key: values
        for key, values in changed.items()
        if key not in _MAY_CHANGE and not schema.KEYS[key].inert
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
    if checkpoint is None or checkpoint.data.get("train") == fingerprints["train"]:
        return
    raise RequestError(
        "the training data is not what this checkpoint was trained on",
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
    for name in (workspace.ADAPTER, workspace.MODEL, workspace.MERGED):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(run / name)
    for name in (RESULT, CONFIG, METRICS, LOSS, LIBRARY_LOG):
        (run / name).unlink(missing_ok=True)

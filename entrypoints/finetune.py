"""The ``finetune`` job: LoRA or full supervised fine-tuning from a JSON configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from entrypoints.finetuning.request import Request
from entrypoints.runtime import launcher
from entrypoints.runtime.arguments import parse
from entrypoints.runtime.console import note, phase
from entrypoints.runtime.disk import writing_below
from entrypoints.runtime.lock import locked
from entrypoints.runtime.logging import libraries_log_to
from entrypoints.runtime.stop import StopSignal
from entrypoints.runtime.stubs import install_stubs
from entrypoints.training import processes, resume
from entrypoints.training.request import LIBRARY_LOG, RESULT
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import backends, chat_templates, parallelism, records, schema, workspace
from paddle_stacks.jobs.datasets import Dataset
from paddle_stacks.jobs.options import FinetuneOptions

__all__ = ["main"]

# These do not affect the steps that are already trained.
_MAY_CHANGE = resume.MAY_CHANGE | {"max_evaluate_steps", "max_steps", "merge", "num_train_epochs"}


def main(argv: list[str]) -> int:
    """Run the job; print the folder of the model or adapter."""
    arguments = parse(FinetuneOptions, argv)
    nodes = launcher.Nodes.of(arguments, os.environ)
    world = arguments.ranks * nodes.count
    config = schema.load(arguments.config, arguments.set, backend=backends.current(), world=world)
    for text in config.notes:
        note(text)
    paths = _paths(config)
    if text := chat_templates.missing_note(config):
        note(text)
    workspace.check_weights(paths["model"], arguments.allow_pickle)
    run = workspace.run_folder(arguments.name, arguments.config, config["output_dir"])
    phase("check the data")
    dataset = Dataset.from_config(config)
    counts = records.check(dataset, dev=config["do_eval"])
    note(f"{counts.train} records to train on, {counts.dev} to evaluate on")
    for text in counts.notes(dataset.seed):
        note(text)
    parallelism.check(config, paths["model"], world)
    with (
        writing_below(run),
        locked(run, f".lock{nodes.name}"),
        StopSignal(arguments.grace) as stop,
    ):
        request = _prepared(arguments, config, run, paths, nodes)
        if request is None:
            print(json.loads((run / RESULT).read_text(encoding="utf-8"))["output"])
            return 0
        phase("start PaddlePaddle")
        if launcher.is_launched(arguments.ranks, nodes):
            processes.run(
                "finetune", request.to_json(), ranks=arguments.ranks, nodes=nodes, folder=run
            )
            print(run / (workspace.ADAPTER if config["lora"] else workspace.MODEL))
            return 0
        install_stubs()
        libraries_log_to(run / LIBRARY_LOG)
        from entrypoints.finetuning.run import train

        print(train(request, stop))
    return 0


def _paths(config: schema.Config) -> dict[str, Path]:
    """Return the folders in the configuration, all of which must exist."""
    faults: list[Problem] = []
    paths: dict[str, Path] = {}
    finders = {
        "model": ("model_name_or_path", workspace.find_trained),
        "tokenizer": ("tokenizer_name_or_path", workspace.find_model),
    }
    for part, (key, find) in finders.items():
        try:
            paths[part] = find(config[key] or config["model_name_or_path"])
        except RequestError as error:
            faults += error.problems if part == "model" or config[key] else []
    if config["lora_path"]:
        try:
            paths["adapter"] = workspace.find_adapter(config["lora_path"])
        except RequestError as error:
            faults += error.problems
    try:
        if template := chat_templates.named(config):
            paths["template"] = template
    except RequestError as error:
        faults += error.problems
    if faults:
        raise RequestError(faults)
    return paths


def _prepared(
    arguments: FinetuneOptions,
    config: schema.Config,
    run: Path,
    paths: Mapping[str, Path],
    nodes: launcher.Nodes,
) -> Request | None:
    """Return the training request, or None if the run is finished."""
    fingerprints = {
        split: records.fingerprint(Dataset.from_config(config), split)
        for split in (("train", "dev") if config["do_eval"] else ("train",))
    }
    choice = resume.resume_choice(arguments.resume, config)
    owner = nodes.rank in (0, None)
    start = resume.begin(config, run, fingerprints, choice, _MAY_CHANGE, owner=owner)
    if start.finished:
        return None
    return Request(
        config=config,
        changes=tuple(arguments.set),
        world=arguments.ranks * nodes.count,
        run=run,
        base=paths["model"],
        tokenizer=paths["tokenizer"],
        template=(paths["template"],) if "template" in paths else (),
        adapter=paths.get("adapter"),
        fingerprints=fingerprints,
        resume=start.resume,
        grace=arguments.grace,
    )

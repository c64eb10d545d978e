"""The request of the ``data`` job, as the host and the container check it."""

from __future__ import annotations

import json
from pathlib import Path

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import records, schema, workspace
from paddle_stacks.jobs.datasets import Dataset
from paddle_stacks.jobs.options import DataOptions

__all__ = ["check", "config_of"]


def config_of(options: DataOptions) -> schema.Config:
    """Return the configuration of a fine-tuning on the data set.

    Args:
        options: of ``data``; ``--set`` may have any key of ``finetune``.

    Raises:
        RequestError: with one problem for each fault.
    """
    changes = [
        f"model_name_or_path={json.dumps(options.model or 'none')}",
        "evaluation_strategy=epoch",
        *options.set,
        f"dataset_name_or_path={json.dumps(options.dataset)}",
    ]
    return schema.load(None, changes, job="finetune")


def check(options: DataOptions, here: Path) -> None:
    """Check a request of ``data``.

    Args:
        options: the job's.
        here: the workspace.

    Raises:
        RequestError: with one problem for each fault.
    """
    config = config_of(options)
    dataset = Dataset.from_config(config, here)
    problems: list[Problem] = []
    try:
        records.check(dataset, dev=config["do_eval"])
    except RequestError as error:
        problems += error.problems
    try:
        if options.model:
            workspace.find_model(options.model, here)
    except RequestError as error:
        problems += error.problems
    try:
        if options.convert:
            sources = [source.path for source in dataset.sources]
            workspace.check_output(here / options.convert, sources, force=options.force)
    except RequestError as error:
        problems += error.problems
    if problems:
        raise RequestError(problems)

"""The request of the ``data`` job, as the host and the container check it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import records, schema, workspace
from paddle_stacks.jobs.datasets import Dataset

__all__ = ["check", "config_of"]


def config_of(arguments: argparse.Namespace) -> schema.Config:
    """Return the configuration of a fine-tuning on the data set.

    Args:
        arguments: of ``data``; ``--set`` may have any key of ``finetune``.

    Raises:
        RequestError: with one problem for each fault.
    """
    changes = [
        f"model_name_or_path={json.dumps(arguments.model or 'none')}",
        "evaluation_strategy=epoch",
        *arguments.set,
        f"dataset_name_or_path={json.dumps(arguments.dataset)}",
    ]
    return schema.load(None, changes, job="finetune")


def check(arguments: argparse.Namespace, here: Path) -> None:
    """Check a request of ``data``.

    Args:
        arguments: the job's.
        here: the workspace.

    Raises:
        RequestError: with one problem for each fault.
    """
    config = config_of(arguments)
    dataset = Dataset.from_config(config, here)
    problems: list[Problem] = []
    try:
        records.check(dataset, dev=config["do_eval"])
    except RequestError as error:
        problems += error.problems
    try:
        if arguments.model:
            workspace.find_model(arguments.model, here)
    except RequestError as error:
        problems += error.problems
    try:
        if arguments.convert:
            sources = [source.path for source in dataset.sources]
            workspace.check_output(here / arguments.convert, sources, force=arguments.force)
    except RequestError as error:
        problems += error.problems
    if problems:
        raise RequestError(problems)

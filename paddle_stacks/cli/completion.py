"""The vocabulary of ``./inv --complete``, from the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from invoke.collection import Collection

from paddle_stacks import completion, settings
from paddle_stacks.cli import ROOT
from paddle_stacks.errors import StackError
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.testing.suites import NAMES as SUITES

__all__ = ["vocabulary"]


def vocabulary(tasks: Collection) -> completion.Vocabulary:
    """Return the words that can be completed for these tasks."""
    from paddle_stacks.completion import values
    from paddle_stacks.explain import images

    try:
        workspace = settings.load(ROOT).workspace
    except StackError:
        workspace = ROOT  # an invalid setting is reported by the task, not during completion
    options: dict[str, dict[str, bool]] = {}
    first: dict[str, Callable[[], Iterable[str]]] = {}
    by_option = values.of_options(ROOT, workspace)
    for context in tasks.to_contexts():
        name = str(context.name)
        flags: dict[str, Any] = context.flags
        options[name] = {
            flag: argument.takes_value
            for flag, argument in flags.items()
            if flag.startswith("--") and flag not in context.inverse_flags
        }
        words = {argument.name for argument in context.positional_args}
        if "job" in words:
            first[name] = lambda: JOBS
        elif "recipe" in words:
            first[name] = lambda: by_option["--recipe"]([])
    return completion.Vocabulary(
        options,
        first,
        {
            **by_option,
            "--image": lambda words: images.targets(ROOT),
            "--suite": lambda words: SUITES,
        },
    )

"""Command lines of jobs, parsed and checked as on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from paddle_stacks.jobs import arguments, backends
from paddle_stacks.jobs.arguments import Parser, parser
from paddle_stacks.jobs.options import Options

__all__ = ["Parser", "parse", "parser"]

_Options = TypeVar("_Options", bound=Options)


def parse(options: type[_Options], argv: Sequence[str]) -> _Options:
    """Return a job's options, after the checks that the host makes too.

    Args:
        options: the class of the job's options.
        argv: the job's command line.

    Raises:
        RequestError: they are wrong.
    """
    return arguments.parse(options, argv, backends.current())

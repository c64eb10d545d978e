"""Command-line arguments of jobs; the host has them too, so they are in ``paddle_stacks.jobs``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from paddle_stacks.jobs import arguments, platforms
from paddle_stacks.jobs.arguments import Parser, parser

__all__ = ["Parser", "parse", "parser"]


def parse(job: str, argv: Sequence[str]) -> argparse.Namespace:
    """Return a job's arguments, after the checks that the host makes too.

    Raises:
        RequestError: they are wrong.
    """
    return arguments.parse(job, argv, platforms.current())

"""Command-line arguments of jobs; ``paddle_stacks.jobs`` defines them, for the host as well."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from paddle_stacks.jobs import arguments, platforms
from paddle_stacks.jobs.arguments import Parser, parser

__all__ = ["Parser", "parse", "parser"]


def parse(job: str, argv: Sequence[str]) -> argparse.Namespace:
    """Return a job's arguments, checked as on the host.

    Raises:
        RequestError: they are invalid.
    """
    return arguments.parse(job, argv, platforms.current())

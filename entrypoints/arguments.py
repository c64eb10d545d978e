"""Command-line arguments of jobs; the host has them too, so they are in ``paddle_stacks.jobs``."""

from paddle_stacks.jobs.arguments import Parser, parser

__all__ = ["Parser", "parser"]

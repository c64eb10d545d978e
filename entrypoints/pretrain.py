"""The ``pretrain`` job: upstream's ``run_pretrain.py`` with a checked configuration."""

from __future__ import annotations

from entrypoints.upstream import run_with_config

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the job; see ``pretrain --help``."""
    return run_with_config("pretrain", "run_pretrain.py", argv)

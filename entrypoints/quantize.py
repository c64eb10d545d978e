"""The ``quantize`` job: upstream's ``run_finetune.py`` with a configuration that quantizes."""

from __future__ import annotations

from entrypoints.upstream import run_with_config

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the job; see ``quantize --help``."""
    return run_with_config("quantize", "run_finetune.py", argv)

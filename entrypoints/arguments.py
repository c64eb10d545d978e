"""Command-line arguments of jobs: argparse, with the project's errors."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from paddle_stacks.errors import RequestError, did_you_mean

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """An argument parser that raises :class:`RequestError` and guesses the option meant.

    Abbreviated options are refused: an abbreviation that works today would
    change its meaning when an option is added.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise the fault that argparse found."""
        hint = ""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        if unknown:
            options = [name for name in self._option_string_actions if name.startswith("--")]
            hint = did_you_mean(unknown.group(1), options)
        remedy = f"{hint} {self.prog} --help lists the arguments".strip()
        raise RequestError(message, where=self.prog, remedy=remedy)

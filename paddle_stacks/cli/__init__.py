"""The command line: one module per group of tasks, and what all tasks have in common.

A task made with :func:`task` tells of a :class:`~paddle_stacks.errors.StackError`
as the project does (what, where, fix) and ends with its exit status; a traceback
is for ``--debug`` or ``PADDLE_STACKS_DEBUG=1``.
"""

from __future__ import annotations

import inspect
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import invoke.tasks
from invoke.exceptions import Exit
from invoke.parser.argument import Argument

from paddle_stacks import settings
from paddle_stacks.errors import STATUSES, StackError, Stopped, render

__all__ = [
    "NOBODY_READS",
    "ROOT",
    "StackTask",
    "colour",
    "finish",
    "nobody_reads",
    "summary",
    "task",
]

ROOT = Path(__file__).resolve().parents[2]
"""The repository's root: where ``configs/`` and ``paddle-stacks.toml`` are."""

NOBODY_READS = 128 + signal.SIGPIPE
"""The exit status of a task whose output nobody reads to its end, as other programs have it."""


_NO_FORMS: Mapping[str, str] = {}
_FORMS = {
    **dict.fromkeys(("backend", "image", "model", "adapter", "profile", "recipe"), "NAME"),
    **dict.fromkeys(("output", "config", "log", "database", "policy", "manifest"), "PATH"),
    **dict.fromkeys(("bundle", "to", "sign", "allowed-signers", "svg"), "PATH"),
    **dict.fromkeys(("port", "hours"), "INT"),
    "card": "NAME",
    "devices": "LIST",
    "interval": "FLOAT",
    "set": "KEY=VALUE",
}
"""The form of the values of options that several tasks have."""


class StackTask(invoke.tasks.Task[Any]):
    """A task whose errors are the project's.

    Args:
        body: the function.
        forms: the form of options' values in the help, as ``INT`` or ``PATH``, by their names.
        **options: those of ``invoke.task``.
    """

    def __init__(
        self, body: Callable[..., Any], forms: Mapping[str, str] = _NO_FORMS, **options: Any
    ) -> None:
        self.forms = {**_FORMS, **forms}
        # One-letter options made up from the first letter that is free would
        # change their meaning when an option is added.
        super().__init__(body, auto_shortflags=False, **options)
        self._told = dict(self.help)
        statuses = "\n".join(f"  {status:<6} {meaning}" for status, meaning in STATUSES.items())
        self.__doc__ = f"{inspect.cleandoc(body.__doc__ or '')}\n\nExit status:\n{statuses}\n"

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the arguments of the task, and ``--debug``."""
        # Invoke takes the texts out of the table when it makes the arguments, and makes them
        # more than once: for the command line, and for whoever asks what there is.
        self.help = dict(self._told)
        debug = Argument("debug", kind=bool, default=False, help="Show tracebacks.")
        return [*super().get_arguments(ignore_unknown_help), debug]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; its errors become a message and an exit status."""
        if kwargs.pop("debug", False):
            os.environ[settings.DEBUG_SWITCH] = "1"
        debug = os.environ.get(settings.DEBUG_SWITCH) == "1"
        try:
            return super().__call__(*args, **kwargs)
        except Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, BrokenPipeError) and nobody_reads():
                raise Exit(code=NOBODY_READS) from error
            if debug:
                traceback.print_exc()
            readable = _told(error)
            print(render(readable, colour=colour()), file=sys.stderr)
            raise Exit(code=readable.status) from error


def task(**options: Any) -> Callable[[Callable[..., Any]], StackTask]:
    """Make a task of a function, with the project's errors.

    Args:
        **options: those of ``invoke.task``: ``help``, ``iterable``, ``optional``, …
    """
    return lambda body: StackTask(body, **options)


def summary(task_object: invoke.tasks.Task[Any]) -> str:
    """Return the first line of a task's help."""
    return (task_object.__doc__ or "").split("\n")[0]


def colour() -> bool:
    """Whether what is written to standard error may be coloured."""
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ


def finish(status: int) -> None:
    """End with the exit status of something that has told about itself already."""
    if status:
        raise Exit(code=status)


def nobody_reads() -> bool:
    """Whether standard output was closed by its reader, as ``… | head`` does; then drop the rest.

    The interpreter would complain about the same pipe once more when it flushes at its end.
    """
    output = sys.stdout.fileno()
    ends = select.poll()
    ends.register(output, 0)
    if not any(event & select.POLLERR for _, event in ends.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _told(error: BaseException) -> StackError:
    """Return the error as one that a person can read."""
    if isinstance(error, StackError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Stopped(signal.SIGINT)
    message = f"{type(error).__name__}: {error}"
    return StackError(message, remedy="this should not happen: --debug shows where it did")

"""``python -m paddle_stacks.cli``: invoke, with status 2 for a wrong command line."""

from __future__ import annotations

import inspect
import shlex
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from invoke.exceptions import Exit, ParseError
from invoke.parser.context import to_flag
from invoke.program import Program

from paddle_stacks import __version__, completion
from paddle_stacks.cli import NOBODY_READS, ROOT, aliases, colour, listing, nobody_reads, summary
from paddle_stacks.errors import STATUSES, RequestError, did_you_mean, render
from paddle_stacks.jobs import deprecated_flags
from paddle_stacks.jobs.catalog import JOBS


class StackProgram(Program):
    """Invoke's program, which tells of a wrong command line as the project does."""

    def load_collection(self) -> None:
        """Load the tasks of the checkout; invoke would look in the caller's folder first."""
        self.args["search-root"].value = str(ROOT)
        super().load_collection()

    def parse_tasks(self) -> None:
        """Parse the tasks and their options; a fault in them ends with status 2."""
        task, *words = [*sys.argv[1:], ""]
        if task == "run" and words[0] in JOBS:
            command = f"./inv {shlex.join(words[:-1])}"
            _refuse(RequestError(f"{words[0]} is a job, not a recipe", where="run", remedy=command))
        with self._told():
            super().parse_tasks()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ParseError as error:
            _refuse(self._fault(error))

    def parse_core_args(self) -> None:
        """Parse the program's own options; print the project's script of a shell if asked."""
        super().parse_core_args()
        if shell := self.args["print-completion-script"].value:
            try:
                print(completion.script(str(shell)), end="")
            except RequestError as error:
                _refuse(error)
            raise Exit

    def parse_cleanup(self) -> None:
        """Print what can stand at the cursor if a shell asks; else list tasks, or show help."""
        if not self.args.complete.value:
            with self._told():
                super().parse_cleanup()
            return
        from paddle_stacks.cli.completion import vocabulary

        line = sys.argv[sys.argv.index("--") + 1] if "--" in sys.argv else ""
        for candidate in completion.candidates(line, vocabulary(self.collection)):
            print(candidate)
        raise Exit

    def no_tasks_given(self) -> None:
        """Print the list of tasks."""
        self.list_flat()
        raise Exit

    def list_flat(self) -> None:
        """Print the tasks by purpose; those of a namespace as invoke does."""
        if self.list_root:
            super().list_flat()
            return
        names = self.collection.task_names
        print("\n".join(listing.lines({name: summary(self.collection[name]) for name in names})))

    def print_task_help(self, name: str) -> None:
        """Print a task's usage, description and options, with the form of each value."""
        task, context = self.collection[name], self.parser.contexts[name]
        words = "".join(f" {argument.name.upper()}" for argument in context.positional_args)
        print(f"Usage: {self.binary} {name} [--options]{words}\n")
        print(textwrap.indent(inspect.getdoc(task) or "", "  "))
        print("\nOptions:\n")
        forms = getattr(task, "forms", {})
        rows = []
        for flag in sorted({to_flag(each.name) for each in context.flags.values()}):
            names, about = context.help_for(flag)
            argument = context.flags[flag]
            form = forms.get(str(argument.name).replace("_", "-"), "STRING")
            if argument.kind is list:
                names += "=STRING"
            rows.append((names.replace("=STRING", f"={form}"), about))
        self.print_columns(rows)

    def print_help(self) -> None:
        """Print invoke's help and the exit statuses."""
        super().print_help()
        print("Exit status:")
        for status, meaning in STATUSES.items():
            print(f"  {status:<6} {meaning}")

    def _fault(self, error: ParseError) -> RequestError:
        context: Any = error.context
        words = str(error).split("'")
        unknown = words[1] if str(error).startswith("No idea what") else ""
        if context is not None and context.name:
            names = [name for name in context.flags if name.startswith("--")]
            where, remedy = context.name, f"./inv --help {context.name}"
        else:
            names, where, remedy = [*self.collection.task_names], "", "./inv --list"
        if unknown and not unknown.startswith("-"):
            names, remedy = [*self.collection.task_names], "./inv --list"
        hint = did_you_mean(unknown, names) if unknown else ""
        fix = _meant(context, unknown) or f"{hint} {remedy}".strip()
        if unknown.startswith("-"):
            return RequestError(
                f"{where or './inv'} has no option {unknown}", where=where, remedy=fix
            )
        if unknown:
            return RequestError(f'there is no task "{unknown}"', where=where, remedy=fix)
        return RequestError(str(error), where=where, remedy=fix)


def _refuse(error: RequestError) -> NoReturn:
    """Print an error and end with its status."""
    print(render(error, colour=colour()), file=sys.stderr)
    raise Exit(code=error.status) from error


def _meant(context: Any, unknown: str) -> str:
    """Return the command that an unknown task or option stands for; empty: nothing known."""
    argv = sys.argv[1:]
    if unknown.startswith("--"):
        job = _job(context)
        return aliases.corrected_option(job, unknown, argv) or deprecated_flags.ours(job, unknown)
    if unknown and unknown in argv:
        return aliases.task_command(unknown, argv[argv.index(unknown) + 1 :])
    return ""


def _job(context: Any) -> str:
    """Return the job that a task is about: its own name, or what ``plan`` was asked for."""
    if context is None or not context.name:
        return ""
    return str(context.args["job"].value or "") if "job" in context.args else str(context.name)


def _asking_for_help(argv: list[str]) -> list[str]:
    """Return a command line on which ``TASK --help`` is help for any task.

    Invoke takes what follows a task with an argument of its own for that argument.
    """
    return [argv[0], "--help", argv[1]] if argv[2:] in (["--help"], ["-h"]) else argv


def main() -> None:
    """Run the program; it exits with the task's status."""
    try:
        try:
            program = StackProgram(version=__version__, name="paddle-stacks", binary="./inv")
            program.run(_asking_for_help(sys.argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not nobody_reads():
            raise
        sys.exit(NOBODY_READS)


if __name__ == "__main__":
    main()

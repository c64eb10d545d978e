"""Command lines of jobs, for the host and the containers."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from paddle_stacks.errors import RequestError, did_you_mean
from paddle_stacks.jobs import deprecated_flags
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.jobs.options import (
    OPTIONS,
    NodeOptions,
    Options,
    QuantizeOptions,
    Spec,
    UpstreamOptions,
    specs,
)
from paddle_stacks.jobs.schema.values import key_value

__all__ = ["Parser", "VerbatimParser", "as_upstream", "parse", "parser", "parser_of"]

_Options = TypeVar("_Options", bound=Options)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises :class:`RequestError` and suggests the intended option.

    Abbreviated options are refused: an abbreviation that works today would
    change its meaning when an option is added.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the arguments, unknown options first.

        Otherwise argparse would report that a misspelt required option is missing.
        """
        argv = sys.argv[1:] if args is None else list(args)
        options = [name for name in self._option_string_actions if name.startswith("--")]
        for word in argv:
            name = word.partition("=")[0]
            if name == "--":
                break
            if re.fullmatch(r"--[A-Za-z][\w-]*", name) and name not in options:
                if remedy := deprecated_flags.ours(self.prog, name):
                    message = f"{self.prog} has no option {name}"
                    raise RequestError(message, where=self.prog, remedy=remedy)
                hint = did_you_mean(name, options)
                self._refuse(f"{self.prog} has no option {name}", hint)
        parsed: tuple[argparse.Namespace, list[str]] = super().parse_known_args(argv, namespace)
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raise argparse's error."""
        self._refuse(message)

    def _refuse(self, message: str, hint: str = "") -> NoReturn:
        remedy = f"{hint} ./inv {self.prog} --help".strip()
        raise RequestError(message, where=self.prog, remedy=remedy)


class VerbatimParser(Parser):
    """A parser that passes on everything after the first positional argument."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the options before the script; the rest are the script's."""
        argv = sys.argv[1:] if args is None else list(args)
        own = self._own_words(argv)
        if own < len(argv) and (
            problem := deprecated_flags.script_problem(argv[own], argv[own + 1 :])
        ):
            raise RequestError(problem)
        parsed, rest = super().parse_known_args(argv[: own + 1], namespace)
        parsed.arguments = argv[own + 1 :]
        return parsed, rest

    def _own_words(self, argv: Sequence[str]) -> int:
        """Return the number of words before the script or another word that is not an option."""
        index = 0
        while index < len(argv):
            name, equals, _ = argv[index].partition("=")
            action = self._option_string_actions.get(name)
            if action is None:
                return index
            index += 1 if equals or action.nargs == 0 else 2
        return index


def parser(job: str) -> Parser:
    """Return the parser of a job's arguments.

    Args:
        job: a name in :data:`paddle_stacks.jobs.catalog.JOBS`.
    """
    return parser_of(OPTIONS[job])


def parser_of(options: type[Options]) -> Parser:
    """Return the parser of a class of options."""
    verbatim = options is UpstreamOptions
    summary = JOBS[options.job].summary if options.job in JOBS else ""
    parser = (VerbatimParser if verbatim else Parser)(
        prog=options.job,
        usage="upstream [OPTION …] SCRIPT [ARGUMENT …]" if verbatim else None,
        description=f"{summary[:1].upper()}{summary[1:]}.",
        epilog=options.examples or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups: dict[str, Any] = {"": parser}
    for spec in specs(options):
        if spec.group not in groups:
            groups[spec.group] = parser.add_argument_group(spec.group)
        _add(groups[spec.group], spec)
    return parser


def _add(group: Any, spec: Spec) -> None:
    """Add an option to a parser or to one of its groups."""
    help, required = spec.full_help.replace("%", "%%"), spec.default is ...
    if spec.type is bool:
        group.add_argument(spec.flag, dest=spec.name, action="store_true", help=help)
        return
    number = "N" if spec.type in (int, float) else None
    values: dict[str, Any] = {
        "help": help,
        "type": spec.parse or spec.type,
        "choices": spec.choices or None,
        "metavar": spec.metavar or number,
        "default": None if required else spec.default,
    }
    if not spec.flag:
        values |= {"metavar": spec.metavar or spec.name.upper()}
        values |= {"nargs": argparse.REMAINDER} if spec.repeatable else {}
        group.add_argument(spec.name, **values).required = required
        return
    if spec.repeatable:
        values |= {"action": "append", "default": []}
    group.add_argument(spec.flag, dest=spec.name, required=required, **values)


def parse(options: type[_Options], argv: Sequence[str], backend: str) -> _Options:
    """Return a job's options, checked.

    Args:
        options: the class of the job's options.
        argv: the job's command line.
        backend: the backend that the job will run on.

    Raises:
        RequestError: some options are wrong.
    """
    values = vars(parser_of(options).parse_args(list(argv)))
    parsed = options(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )
    parsed.check(backend)
    return parsed


def as_upstream(script: str, options: QuantizeOptions) -> UpstreamOptions:
    """Return the options of ``upstream`` for a job that runs a script with a configuration.

    Args:
        script: upstream's.
        options: the job's.

    Raises:
        RequestError: there is no configuration, a ``--set`` is not KEY=VALUE, or upstream's
            program has no such option.
    """
    if options.config is None:
        raise RequestError(
            "upstream's program requires a configuration",
            where="--config",
            remedy="--config configs/jobs/dcu/quantize-a8w8.json, or --recipe NAME",
        )
    if options.force:
        raise RequestError(
            "upstream's program overwrites existing output and has no such option",
            where="--force",
            remedy="leave it out, and move existing output away to keep it",
        )
    words = [str(options.config)]
    for key, value in (("model_name_or_path", options.model), ("output_dir", options.output)):
        words += [f"--{key}", value] if value else []
    for text in options.set:
        name, setting = key_value(text)
        words += [f"--{name}", setting]
    shared = {each.name: getattr(options, each.name) for each in dataclasses.fields(NodeOptions)}
    return UpstreamOptions(name=options.name, script=script, arguments=tuple(words), **shared)

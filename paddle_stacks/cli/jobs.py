"""The tasks that run jobs. A job's options are the container's own, declared once."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.parser.argument import Argument

from paddle_stacks import settings
from paddle_stacks.cli import ROOT, StackTask, finish
from paddle_stacks.dcu.cards import parse_devices
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.arguments import PARSERS, parser
from paddle_stacks.jobs.catalog import JOBS, find
from paddle_stacks.recipes import DISTRIBUTED
from paddle_stacks.recipes import find as find_recipe

if TYPE_CHECKING:
    from paddle_stacks.launch import Choices

__all__ = ["PlanTask", "choices_of", "collection", "start", "verbatim_words", "words_of"]

_DRY_RUN = "Print the plan, check the request, and stop."
_JSON = "Print the plan as JSON, and stop."
_BACKEND = "Backend (default: the setting, else cpu)."
_DEVICES = "Devices to use, such as 0,1 or 0-3 (default: all)."
_RECIPE = "Recipe to run; ./inv recipes lists them."
_SET = "Override an option of the recipe; repeatable."
_VERIFIED = "Require an image that passed ./inv verify."
_PROFILE = "More rights: debug, or doc for those of the vendor's instructions."


class JobTask(StackTask):
    """A task whose options are those of one job or several, and a few of the host's."""

    def __init__(self, body: Callable[..., Any], jobs: Iterable[str], **options: Any) -> None:
        self.jobs = tuple(jobs)
        forms = {name: form for job in self.jobs for name, form in _forms(job)}
        super().__init__(body, forms=forms, positional=(), **options)

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the arguments of the jobs, each once, and the host's own.

        Where the task has one of the same name, a job's own has the job's in front: a
        cluster's ``--engine`` is its scheduler, ``--infer-engine`` what infer computes with.
        """
        own = self.own_arguments()
        taken = {argument.name for argument in own}
        by_name: dict[str, Argument] = {}
        for job in self.jobs:
            for action in _actions(job):
                new = _argument(action, positional=len(self.jobs) == 1)
                if new.name in taken:
                    new = _argument(action, positional=False, before=f"{job}-")
                first = by_name.setdefault(str(new.name), new)
                if new.kind is list and first.kind is str:
                    by_name[str(new.name)] = new  # repeatable in one of the jobs
        host = [argument for argument in _host_arguments() if argument.name not in by_name]
        return [*own, *by_name.values(), *host]

    def own_arguments(self) -> list[Argument]:
        """Return the arguments that come before the jobs' own."""
        return []


class PlanTask(JobTask):
    """The task that plans any job, named by its first argument."""

    def own_arguments(self) -> list[Argument]:
        """Return the job's name."""
        return [Argument("job", positional=True, help=f"One of: {', '.join(JOBS)}.")]


class RunTask(JobTask):
    """The task that runs a recipe, named by its first argument."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the recipe's name, the options that a recipe leaves open, and the host's."""
        about = "One of those that ./inv recipes lists."
        left_open = [
            _argument(action, positional=False)
            for action in _actions("quantize")
            if action.dest in ("name", "model", *DISTRIBUTED)
        ]
        host = [argument for argument in _host_arguments() if argument.name != "recipe"]
        return [Argument("recipe", positional=True, help=about), *left_open, *host]


def _job_task(name: str) -> JobTask:
    def body(context: Context, **options: Any) -> None:
        start(name, options, verbatim_words(context))

    summary = JOBS[name].summary
    body.__doc__ = f"{summary[0].upper()}{summary[1:]}."
    return JobTask(body, [name], name=name)


def _plan(context: Context, job: str, **options: Any) -> None:
    """Show what a job would run, and check its request.

    ./inv plan finetune --config my.json --json
    """
    find(job)
    start(job, {**options, "dry_run": True}, verbatim_words(context))


def verbatim_words(context: Context) -> list[str]:
    """Return the words after ``--``: invoke has them too, joined to one string."""
    return sys.argv[sys.argv.index("--") + 1 :] if context.remainder and "--" in sys.argv else []


def _run(context: Context, recipe: str, **options: Any) -> None:
    """Run a recipe, whatever its job.

    ./inv run lora-demo
    """
    name = settings.load(ROOT, {"backend": options["backend"]}).backend
    start(find_recipe(recipe, ROOT, name).job, {**options, "recipe": recipe})


def _shell(
    context: Context,
    job: str = "finetune",
    backend: str | None = None,
    devices: str | None = None,
    profile: str | None = None,
    require_verified: bool = False,
) -> None:
    """Open a shell in a container such as a job has.

    Image, user, mounts, devices, limits and rights are those of the job: ./inv shell serve
    """
    from paddle_stacks import launch

    flags = {"backend": backend, "require_verified": "true" if require_verified else None}
    cards = parse_devices(devices) if devices else ()
    finish(launch.shell(job, settings.load(ROOT, flags), launch.Choices(profile or "", cards)))


def start(job: str, options: dict[str, Any], verbatim: Sequence[str] = ()) -> None:
    """Run or plan a job.

    Args:
        job: its name.
        options: the job's and the host's, by their names.
        verbatim: the words after ``--``.
    """
    from paddle_stacks import launch

    verified = "true" if options.pop("require_verified", False) else None
    flags = {"backend": options.pop("backend", None), "require_verified": verified}
    loaded = settings.load(ROOT, flags)
    as_json, dry_run = options.pop("json", False), options.pop("dry_run", False)
    choices = choices_of(options)
    words = words_of(job, options, verbatim)
    if dry_run or as_json:
        steps = launch.make_steps(job, words, loaded, choices)
        launch.print_plan(steps, as_json=as_json)
        sys.stdout.flush()
        launch.check_requests(steps)
    else:
        finish(launch.launch(job, words, loaded, choices))


def choices_of(options: dict[str, Any]) -> Choices:
    """Take the host's choices out of a job's options, and return them."""
    from paddle_stacks import launch

    devices = options.pop("devices", None)
    recipe = options.pop("recipe", None) or ""
    return launch.Choices(
        options.pop("profile", None) or "",
        parse_devices(devices) if devices else (),
        recipe,
        tuple(options.pop("set", None) or ()) if recipe else (),
    )


def words_of(job: str, options: dict[str, Any], verbatim: Sequence[str] = ()) -> list[str]:
    """Return the job's command line for the options that were given."""
    line: list[str] = []
    last: list[str] = []
    actions = {action.dest: action for action in _actions(job)}
    actions |= {a.option_strings[-1].lstrip("-"): a for a in _actions(job) if a.option_strings}
    for name, value in options.items():
        if value in (None, False, []):
            continue
        if name not in actions:
            raise RequestError(
                f"{job} has no --{name.replace('_', '-')}", where=job, remedy=f"./inv --help {job}"
            )
        option = actions[name].option_strings[-1:]
        if not option:
            last.append(value)
        elif value is True:
            line += option
        else:
            line += [f"{option[0]}={v}" for v in (value if isinstance(value, list) else [value])]
    if verbatim and job != "upstream":
        remedy = "./inv upstream SCRIPT -- ARGUMENT …"
        raise RequestError(f"{job} takes nothing behind --", where=job, remedy=remedy)
    return [*line, *last, *verbatim]


def _actions(job: str) -> list[argparse.Action]:
    # What a script gets stands behind --, and is no option of invoke's.
    return [
        action
        for action in parser(job)._actions
        if action.dest != "help" and action.nargs != argparse.REMAINDER
    ]


def _forms(job: str) -> Iterator[tuple[str, str]]:
    """Yield the form of each option's value, by the option's name."""
    for action in _actions(job):
        name = action.option_strings[-1].lstrip("-") if action.option_strings else action.dest
        if form := _form(action):
            yield name, form


def _form(action: argparse.Action) -> str:
    """Return what a value looks like: its choices, a pattern such as KEY=VALUE, or its type."""
    metavar = str(action.metavar or "")
    if action.choices:
        return "|".join(map(str, action.choices))
    if re.search("[=|:]", metavar):
        return metavar
    if metavar in ("FILE", "FOLDER", "PATH", "PREFIX"):
        return "PATH"
    kind: Any = action.type
    # A function that checks a number says by its annotation which kind it returns.
    name = getattr(kind, "__annotations__", {}).get("return") or getattr(kind, "__name__", "")
    return {"int": "INT", "float": "FLOAT", "Path": "PATH"}.get(str(name), "")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else text


def _argument(action: argparse.Action, *, positional: bool, before: str = "") -> Argument:
    if before:
        name = before + action.option_strings[-1].lstrip("-")
        about = _sentence(action.help or "")
        return Argument(name, attr_name=name.replace("-", "_"), kind=str, help=about)
    name = action.option_strings[-1].lstrip("-") if action.option_strings else action.dest
    kind = bool if action.nargs == 0 else list if isinstance(action.default, list) else str
    return Argument(
        name,
        # Invoke's help looks an option up by its attribute, with dashes: --from, whose
        # attribute is "source", would not be found. And a name that is its own alias is a loop.
        attr_name=action.dest if action.dest != name == action.dest.replace("_", "-") else None,
        kind=kind,
        # Left to the job's own parser, so that a plan shows what was asked for and no more.
        default=False if kind is bool else None,
        help=_sentence(action.help or ""),
        positional=positional and not action.option_strings,
    )


def _host_arguments() -> list[Argument]:
    return [
        Argument("backend", kind=str, help=_BACKEND),
        Argument("devices", kind=str, help=_DEVICES),
        Argument("profile", kind=str, help=_PROFILE),
        Argument("recipe", kind=str, help=_RECIPE),
        Argument("set", kind=list, help=_SET),
        Argument(
            "require-verified",
            attr_name="require_verified",
            kind=bool,
            default=False,
            help=_VERIFIED,
        ),
        Argument("dry-run", attr_name="dry_run", kind=bool, default=False, help=_DRY_RUN),
        Argument("json", kind=bool, default=False, help=_JSON),
        Argument("debug", kind=bool, default=False, help="Show tracebacks."),
    ]


def collection() -> Collection:
    """Return the tasks: one for each job, ``plan``, ``run`` and ``shell``."""
    group = Collection()
    for name in PARSERS:
        group.add_task(_job_task(name))
    group.add_task(PlanTask(_plan, PARSERS, name="plan"))
    group.add_task(RunTask(_run, ["quantize"], name="run"))
    about = {
        "job": f"One of: {', '.join(JOBS)} (default: finetune).",
        "backend": _BACKEND,
        "devices": _DEVICES,
        "profile": _PROFILE,
        "require_verified": _VERIFIED,
    }
    group.add_task(StackTask(_shell, name="shell", positional=["job"], help=about))
    return group

"""The tasks that run jobs. A job's options are the container's own, declared once."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.parser.argument import Argument

from paddle_stacks import settings
from paddle_stacks.cli import ROOT, StackTask, finish
from paddle_stacks.dcu.cards import parse_devices
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.catalog import JOBS, find
from paddle_stacks.jobs.options import OPTIONS, RecipeOptions, Spec, specs
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
        forms = {
            _name(spec): form for job in self.jobs for spec in _specs(job) if (form := _form(spec))
        }
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
            for spec in _specs(job):
                new = _argument(spec, positional=len(self.jobs) == 1)
                if new.name in taken:
                    new = _argument(spec, positional=False, before=f"{job}-")
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
        left_open = [_argument(spec, positional=False) for spec in specs(RecipeOptions)]
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
    """Return the job's command line for the options that are set."""
    line: list[str] = []
    last: list[str] = []
    by_name = {name: spec for spec in _specs(job) for name in (spec.name, _name(spec))}
    for name, value in options.items():
        if value in (None, False, []):
            continue
        if name not in by_name:
            raise RequestError(
                f"{job} has no --{name.replace('_', '-')}", where=job, remedy=f"./inv --help {job}"
            )
        flag = by_name[name].flag
        if not flag:
            last.append(value)
        elif value is True:
            line.append(flag)
        else:
            line += [f"{flag}={v}" for v in (value if isinstance(value, list) else [value])]
    if verbatim and job != "upstream":
        remedy = "./inv upstream SCRIPT -- ARGUMENT …"
        raise RequestError(f"{job} takes no arguments after --", where=job, remedy=remedy)
    return [*line, *last, *verbatim]


def _specs(job: str) -> list[Spec]:
    """Return the declarations of a job's options, but for the arguments after ``--``."""
    return [spec for spec in specs(OPTIONS[job]) if spec.flag or not spec.repeatable]


def _name(spec: Spec) -> str:
    return spec.flag.lstrip("-") or spec.name


def _form(spec: Spec) -> str:
    """Return the form of a value: its choices, a pattern such as KEY=VALUE, or its type."""
    if spec.choices:
        return "|".join(spec.choices)
    if re.search("[=|:]", spec.metavar):
        return spec.metavar
    if spec.metavar in ("FILE", "FOLDER", "PATH", "PREFIX"):
        return "PATH"
    return {int: "INT", float: "FLOAT", Path: "PATH"}.get(spec.type, "")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else text


def _argument(spec: Spec, *, positional: bool, before: str = "") -> Argument:
    name, help = f"{before}{_name(spec)}", _sentence(spec.full_help)
    if before:
        return Argument(name, attr_name=name.replace("-", "_"), kind=str, help=help)
    kind = bool if spec.type is bool else list if spec.repeatable else str
    return Argument(
        name,
        # Invoke's help looks an option up by its attribute, with dashes: --from, whose
        # attribute is "source", would be missing. And a name that is its own alias is a loop.
        attr_name=spec.name if spec.name != name == spec.name.replace("_", "-") else None,
        kind=kind,
        # The job's own parser sets the default, so that a plan shows only what was set.
        default=False if kind is bool else None,
        help=help,
        positional=positional and not spec.flag,
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
    for name in JOBS:
        group.add_task(_job_task(name))
    group.add_task(PlanTask(_plan, JOBS, name="plan"))
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

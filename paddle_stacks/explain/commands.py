"""What can be typed or named: options, jobs, tasks, recipes, models, checks, exit statuses."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks import recipes
from paddle_stacks.doctor import CHECKS, logs
from paddle_stacks.errors import STATUSES
from paddle_stacks.explain.topics import Topic
from paddle_stacks.jobs import models
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.jobs.options import OPTIONS, specs

__all__ = ["Option", "of_status", "topics"]


@dataclass(frozen=True)
class Option:
    """An option of a task.

    Args:
        task: the task's name.
        name: with dashes, as ``--backend``.
        help: what it is for.
    """

    task: str
    name: str
    help: str


def topics(root: Path, tasks: Mapping[str, str], options: Iterable[Option]) -> Iterator[Topic]:
    """Yield everything that has a name on the command line.

    Args:
        root: the repository's root.
        tasks: what each task does, in a sentence.
        options: those of the tasks, of which jobs' own are told by the jobs.
    """
    yield from _jobs()
    yield from _options(options)
    for task, summary in tasks.items():
        if task not in JOBS:
            yield Topic("task", task, summary, (("see", f"./inv --help {task}"),))
    yield from _recipes(root)
    yield from _models(root)
    yield from _checks()
    for failure in logs.known_failures():
        facts = [("do", failure.remedy), ("seen in", failure.source)]
        facts.append(("looks like", failure.pattern.pattern))
        yield Topic("failure", failure.name, failure.cause, tuple(facts))
    for status, meaning in STATUSES.items():
        yield Topic("exit status", status, meaning)


def of_status(word: str) -> Topic | None:
    """Return what an exit status above 128 means: which signal it was; None for another word."""
    if not word.isdecimal() or not 128 < int(word) < 128 + signal.NSIG:
        return None
    number = int(word) - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    says = f"128 + {number}: {STATUSES['128+n'].replace('signal n', name)}."
    return Topic("exit status", word, says)


def _jobs() -> Iterator[Topic]:
    for job in JOBS.values():
        facts = (("image", job.image), ("options", f"./inv --help {job.name}"))
        yield Topic("job", job.name, job.summary, facts)


def _options(others: Iterable[Option]) -> Iterator[Topic]:
    """Yield the options, once for each thing that one is for."""
    uses: dict[tuple[str, str, str], list[str]] = {}
    own: set[tuple[str, str]] = set()
    for job, options in OPTIONS.items():
        for spec in specs(options):
            name = spec.flag or spec.name
            own.add((job, name))
            unset = spec.default in (None, False, (), ...)
            default = "" if unset else str(spec.default)
            uses.setdefault((name, spec.full_help, default), []).append(job)
    for option in others:
        if (option.task, option.name) not in own:
            uses.setdefault((option.name, option.help, ""), []).append(option.task)
    for (name, about, default), where in uses.items():
        facts = [("of", ", ".join(sorted(set(where))))]
        facts += [("default", default)] if default else []
        yield Topic("option", name, about, tuple(facts))


def _recipes(root: Path) -> Iterator[Topic]:
    for path in sorted((root / recipes.FOLDER).glob("*.toml")):
        for recipe in recipes.load(root, path.stem).values():
            run = f"./inv {recipe.job} --backend {path.stem} --recipe {recipe.name}"
            facts = [("run", run), ("model", recipe.model)]
            facts += [("instead of", line) for line in recipe.documented]
            facts += [("deviation", text) for text in recipe.deviations]
            yield Topic("recipe", recipe.name, recipe.summary, tuple(facts))


def _models(root: Path) -> Iterator[Topic]:
    for name in models.known(root):
        model = models.find(name, workspace=root)
        source = f"{model.source.kind}:{model.source.value}"
        facts = (("from", source), ("fetch", f"./inv fetch {name}"))
        yield Topic("model", name, model.title, facts)


def _checks() -> Iterator[Topic]:
    for check in CHECKS:
        facts = (
            ("looks at", check.title),
            ("platforms", ", ".join(check.backends)),
            ("worst", check.worst),
            ("see", "docs/doctor.md"),
        )
        about = (inspect.getdoc(check.look) or "").split("\n\n")[0]
        yield Topic("check", check.name, " ".join(about.replace("``", "`").split()), facts)

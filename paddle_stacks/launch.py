"""One job from its arguments to its exit status: plan, say so, check, run."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks import plan as plans
from paddle_stacks import preflight
from paddle_stacks.dcu.host import look
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import schema
from paddle_stacks.jobs.arguments import parser, words
from paddle_stacks.jobs.catalog import find
from paddle_stacks.ownership import run_as
from paddle_stacks.plan import Plan, backend, show
from paddle_stacks.settings import DEBUG_SWITCH, Settings

__all__ = ["Choices", "launch", "make_plan", "print_plan"]


@dataclass(frozen=True)
class Choices:
    """What the caller chose besides the job's own arguments.

    Args:
        profile: one of the backend's profiles; empty for none.
        cards: the cards to use; none for all of them.
    """

    profile: str = ""
    cards: tuple[int, ...] = ()


_NO_CHOICE = Choices()

# The arguments that name a file or a folder.
_PATHS = {"config", "input", "output", "model", "adapter", "resume", "source"}


def launch(
    job: str, arguments: Sequence[str], settings: Settings, choices: Choices = _NO_CHOICE
) -> int:
    """Plan a job, print the plan, check what it needs, run it, and return its exit status.

    Args:
        job: its name.
        arguments: its arguments.
        settings: the backend, the workspace and so on.
        choices: profile and cards.

    Raises:
        StackError: the request is wrong, the machine is not fit, or the job was
            ended from outside.
    """
    plan = make_plan(job, arguments, settings, choices)
    print(_announcement(plan), file=sys.stderr)
    return run(plan)


def run(plan: Plan) -> int:
    """Check what a plan needs, carry it out, and return the job's exit status."""
    parsed = parser(plan.job).parse_args(list(plan.argv[1:]))
    preflight.check_request(plan, parsed)
    preflight.check_workspace(plan)
    from paddle_stacks import engine
    from paddle_stacks.executors import docker
    from paddle_stacks.executors.record import RunRecord

    client = engine.connect()
    preflight.check_image(plan, client)
    if _reads_standard_input(parsed):
        return docker.attach(plan)
    record = None
    if plan.job == "finetune":
        config = schema.load(plan.workspace / parsed.config, parsed.set, backend=plan.backend)
        folder = plan.workspace / preflight.run_folder(parsed, config)
        record = RunRecord(folder, show.as_json(plan), plan.user)
    return docker.execute(plan, client, record=record)


def make_plan(
    job: str, arguments: Sequence[str], settings: Settings, choices: Choices = _NO_CHOICE
) -> Plan:
    """Return the plan of a job, after a check of its arguments.

    Raises:
        RequestError: there is no such job, backend or profile, or the arguments are wrong.
    """
    known = find(job)
    made = parser(job)
    parsed = made.parse_args(list(arguments))
    _move_into_workspace(parsed, settings.workspace)
    if job == "finetune":
        schema.load(settings.workspace / parsed.config, parsed.set, backend=settings.backend)
    platform = backend.load(settings.backend, settings.root, choices.profile)
    if choices.cards and not platform.card_variable:
        raise RequestError(
            f"{platform.name} has no cards to pick", where="--devices", remedy="--backend dcu"
        )
    return plans.make(
        known,
        words(made, parsed),
        settings,
        platform,
        user=run_as(settings.workspace),
        suffix=secrets.token_hex(3),
        debug=os.environ.get(DEBUG_SWITCH) == "1",
        host=look(settings.host_root),
        cards=choices.cards,
    )


def print_plan(plan: Plan, *, as_json: bool) -> None:
    """Print the plan on standard output: one JSON document, or text and a command line."""
    if as_json:
        print(json.dumps(show.as_json(plan), indent=2, ensure_ascii=False))
    else:
        print(show.as_text(plan))
        print(f"\nby hand:\n{show.as_docker_command(plan)}")


def _move_into_workspace(arguments: argparse.Namespace, workspace: Path) -> None:
    """Make the paths among the arguments relative to the workspace, as a job sees them."""
    problems = []
    for key, value in vars(arguments).items():
        if key not in _PATHS or value is None:
            continue
        # Where a model comes from can be gguf:PATH.
        prefix = "gguf:" if str(value).startswith("gguf:") else ""
        path = str(value).removeprefix(prefix)
        if not path.startswith(("/", "..")):
            continue
        inside = os.path.relpath(workspace / path, workspace)
        if inside.startswith(".."):
            what = f"{path} is outside the workspace, which is all that a job sees"
            problems.append(Problem(what, str(workspace), "move or copy it there"))
        setattr(arguments, key, type(value)(prefix + inside))
    if problems:
        raise RequestError(problems)


def _announcement(plan: Plan) -> str:
    if not sys.stderr.isatty():
        return show.as_text(plan)
    return show.as_line(plan)


def _reads_standard_input(arguments: argparse.Namespace) -> bool:
    values = vars(arguments)
    return bool(values.get("chat")) or "-" in (values.get("prompt"), values.get("input"))

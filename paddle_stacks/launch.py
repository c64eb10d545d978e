"""One job from its arguments to its exit status: plan, print, check, run."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddle_stacks import feasibility, preflight, recipes
from paddle_stacks import plan as plans
from paddle_stacks.access import of as access_of
from paddle_stacks.dcu import notes
from paddle_stacks.dcu.host import look
from paddle_stacks.doctor.machine import memory_mib
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import chat_templates, serving, upstream, workspace
from paddle_stacks.jobs.catalog import find
from paddle_stacks.jobs.options import FetchOptions, RecipeOptions, ServeOptions, UpstreamOptions
from paddle_stacks.ownership import run_as
from paddle_stacks.plan import Backend, Plan, backend, mounts, show
from paddle_stacks.recipe_requests import caller_options, from_recipe
from paddle_stacks.recipes import Recipe
from paddle_stacks.request import JobRequest, from_words
from paddle_stacks.settings import DEBUG_SWITCH, Settings

__all__ = [
    "Choices",
    "Step",
    "Steps",
    "check_files",
    "check_requests",
    "launch",
    "make_plan",
    "make_steps",
    "print_plan",
    "run_folder",
    "shell",
]


@dataclass(frozen=True)
class Choices:
    """The options of a command besides the job's own.

    Args:
        profile: one of the backend's profiles; empty for none.
        cards: indices of the devices to use; empty for all.
        recipe: name of the recipe to run; empty for none.
        changes: ``KEY=VALUE`` that override the recipe's configuration or options.
    """

    profile: str = ""
    cards: tuple[int, ...] = ()
    recipe: str = ""
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A job that another one depends on.

    Args:
        plan: the plan of the job.
        produces: its output in the workspace.
        whole: whether the output exists and is complete.
        recipe: name of its recipe; empty for a fetched model.
    """

    plan: Plan
    produces: str
    whole: bool
    recipe: str = ""


@dataclass(frozen=True)
class Steps:
    """A job, and the jobs that it depends on.

    Args:
        before: the jobs that it depends on, in order.
        plan: the plan of the job.
        recipe: name of its recipe; empty for none.
    """

    before: tuple[Step, ...]
    plan: Plan
    recipe: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the job's plan as JSON-serializable values, with the steps before it."""
        if not self.recipe:
            return show.as_json(self.plan)
        before = [
            {
                "recipe": step.recipe,
                "produces": step.produces,
                "whole": step.whole,
                "plan": show.as_json(step.plan),
            }
            for step in self.before
        ]
        return {**show.as_json(self.plan), "recipe": self.recipe, "before": before}


_NO_CHOICE = Choices()

# The images for which this process has printed that they are not verified.
_REPORTED_IMAGES: set[str] = set()


def launch(
    job: str, words: Sequence[str], settings: Settings, choices: Choices = _NO_CHOICE
) -> int:
    """Plan a job, print the plan, check its requirements, run it, and return its exit status.

    Args:
        job: name of the job.
        words: its arguments.
        settings: the backend, the workspace and so on.
        choices: profile, devices and recipe.

    Raises:
        StackError: the request is wrong, the machine cannot run the job, or the job was
            stopped by a signal.
    """
    steps = make_steps(job, words, settings, choices)
    if steps.before:
        # Before a model of 26 GB is fetched.
        preflight.check_machine(steps.plan, settings)
    for step in steps.before:
        if step.whole:
            print(f"exists already: {step.produces}", file=sys.stderr)
            continue
        print(_announcement(step.plan), file=sys.stderr)
        if status := run(step.plan, settings):
            return status
    print(_announcement(steps.plan), file=sys.stderr)
    return run(steps.plan, settings)


def run(plan: Plan, settings: Settings) -> int:
    """Check a plan's requirements, run it, and return the job's exit status."""
    check_files(plan)
    preflight.check_machine(plan, settings)
    preflight.check_ports(plan)
    from paddle_stacks import engine
    from paddle_stacks.executors import docker
    from paddle_stacks.executors.record import RunRecord

    client = engine.connect()
    preflight.check_image(plan, client)
    _note_unverified(plan, preflight.check_verified(plan, settings, client))
    preflight.check_operators(plan, settings, client)
    if plan.request and plan.request.reads_standard_input:
        return docker.attach(plan)
    record = None
    if folder := run_folder(plan):
        record = RunRecord(folder, plan.workspace, show.as_json(plan), plan.user)
    return docker.execute(plan, client, record=record)


def shell(job: str, settings: Settings, choices: Choices = _NO_CHOICE) -> int:
    """Open a shell in a job's container, and return the shell's exit status.

    Image, user, mounts, devices, limits and rights are the job's; standard input is the shell's.

    Args:
        job: name of the job.
        settings: the backend, the workspace and so on.
        choices: profile and devices.

    Raises:
        StackError: the job or backend does not exist, or the machine cannot run the job.
    """
    loaded = backend.load(settings.backend, settings.root, choices.profile)
    plan = _make(job, (find(job).name,), mounts.Access(), settings, loaded, choices)
    preflight.check_machine(plan, settings)
    from paddle_stacks import engine
    from paddle_stacks.executors import docker

    client = engine.connect()
    preflight.check_image(plan, client)
    _note_unverified(plan, preflight.check_verified(plan, settings, client))
    note = f"{_announcement(plan)}\nnote: `entry {job} …` runs the job in it"
    print(note, file=sys.stderr)
    return docker.attach(replace(plan, argv=()), entrypoint="bash")


def _note_unverified(plan: Plan, reason: str) -> None:
    """Print, once for each image, why it is not verified."""
    if reason and plan.image not in _REPORTED_IMAGES:
        _REPORTED_IMAGES.add(plan.image)
        note = f"note: {plan.image} is not verified: {reason}; {plan.verify_command}"
        print(note, file=sys.stderr)


def make_plan(
    job: str, words: Sequence[str], settings: Settings, choices: Choices = _NO_CHOICE
) -> Plan:
    """Return the plan of a job, after a check of its arguments.

    Raises:
        RequestError: the job, backend, profile or recipe does not exist, the arguments
            are wrong, or the backend's devices cannot run the job.
    """
    return make_steps(job, words, settings, choices).plan


def make_steps(
    job: str, words: Sequence[str], settings: Settings, choices: Choices = _NO_CHOICE
) -> Steps:
    """Return a job's plan, and the plans of the jobs that it depends on.

    Raises:
        RequestError: as :func:`make_plan`.
    """
    find(job)
    loaded = backend.load(settings.backend, settings.root, choices.profile)
    if choices.cards and not loaded.card_variable:
        raise RequestError(
            f"{loaded.name} has no devices to choose from",
            where="--devices",
            remedy="--backend dcu",
        )
    if choices.recipe:
        return _steps_of_recipe(job, words, settings, loaded, choices)
    if choices.changes:
        raise RequestError(f"{job} has no --set", where=job, remedy="it is for --recipe NAME")
    devices = bool(loaded.devices)
    request = from_words(job, words, settings.workspace, loaded.name, devices=devices)
    plan = _plan(request, settings, loaded, choices)
    return Steps((), _with_host_notes(plan, settings, loaded))


def _steps_of_recipe(
    job: str, words: Sequence[str], settings: Settings, loaded: Backend, choices: Choices
) -> Steps:
    by_name = recipes.load(settings.root, settings.backend)
    recipe = recipes.find(choices.recipe, settings.root, settings.backend, job)
    caller = caller_options(recipe, words, loaded.name)
    if caller.model:
        by_name = {
            name: recipes.with_model(each, caller.model_name, settings.root)
            for name, each in by_name.items()
            if each.model == recipe.model
        }
        recipe = by_name[recipe.name]

    def plan_of(each: Recipe, caller: RecipeOptions, choices: Choices) -> Plan:
        request = from_recipe(each, caller, choices.changes, settings, loaded)
        fallback = f"./inv {each.job} --backend {loaded.name} --recipe {each.fallback}"
        advice = fallback if each.fallback else ""
        return _plan(request, settings, loaded, choices, advice=advice, recipe=True)

    plan = plan_of(recipe, caller, choices)
    before = [
        Step(
            plan_of(each, RecipeOptions(), _choices_for(each, choices)),
            each.produces,
            recipes.is_whole(each, settings.workspace),
            each.name,
        )
        for each in recipes.steps(recipe, by_name)
    ]
    # An output that exists does not need its model again.
    pending = [by_name[step.recipe] for step in before if not step.whole] + [recipe]
    models = dict.fromkeys(each.model for each in pending if each.model)
    fetched = [step for model in models if (step := _fetch_step(model, settings, loaded))]
    return Steps((*fetched, *before), _with_host_notes(plan, settings, loaded), recipe.name)


def _with_host_notes(plan: Plan, settings: Settings, loaded: Backend) -> Plan:
    """Return the plan with notes on faults of the host that do not stop the job."""
    nodes = plan.request.nodes if plan.request else 1
    more = notes.notes(plan, loaded, settings.host_root, nodes=nodes)
    return replace(plan, notes=(*plan.notes, *more))


def _choices_for(recipe: Recipe, choices: Choices) -> Choices:
    """Return the caller's choices for a step before the job, which may need fewer devices."""
    return replace(choices, recipe=recipe.name, changes=(), cards=choices.cards[: recipe.cards])


def _fetch_step(model: str, settings: Settings, loaded: Backend) -> Step | None:
    """Return the step that fetches a model; None if it exists."""
    try:
        workspace.find_model(model, settings.workspace)
    except RequestError:
        request = JobRequest("fetch", FetchOptions(model=model))
        return Step(_plan(request, settings, loaded, _NO_CHOICE), f"models/{model}", whole=False)
    return None


def print_plan(steps: Steps, *, as_json: bool) -> None:
    """Print the plan on standard output: one JSON document, or text and a command line."""
    if as_json:
        print(json.dumps(steps.as_json(), indent=2, ensure_ascii=False))
        return
    for step in steps.before:
        state = "exists already" if step.whole else "first"
        print(f"{state}: {step.produces}")
        print("\n".join(f"  {line}" for line in _text(step.plan).splitlines()) + "\n")
    print(_text(steps.plan))


def _text(plan: Plan) -> str:
    sources = mounts.to_make(plan.mounts, plan.workspace)
    missing = [source for source in sources if not Path(source).exists()]
    command = f"mkdir -p {shlex.join(missing)}\n" if missing else ""
    lines = [f"plan: {plan.job} on {plan.backend}", *show.beside_command(plan), ""]
    return "\n".join([*lines, command + show.as_docker_command(plan)])


def _plan(
    request: JobRequest,
    settings: Settings,
    loaded: Backend,
    choices: Choices,
    *,
    advice: str = "",
    recipe: bool = False,
) -> Plan:
    """Return the plan of a request, after the checks that need no container.

    Args:
        request: the job.
        settings: of this command.
        loaded: the backend.
        choices: devices and profile.
        advice: what to do if the job needs too much memory; empty for the default.
        recipe: whether the job is a recipe's.
    """
    options = request.options
    if isinstance(options, UpstreamOptions):
        _check_script(request.job, options, loaded, recipe=recipe)
    feasibility.check(request, settings, loaded, choices.cards, advice=advice)
    if isinstance(options, ServeOptions):
        _check_access(options, loaded)
        request = replace(request, options=_inside_container(options, loaded))
    access = access_of(request, settings.workspace)
    plan = _make(request.job, request.argv, access, settings, loaded, choices)
    plan = replace(plan, request=request)
    if isinstance(options, ServeOptions):
        plan = _published(plan, options, loaded)
    if request.job == "finetune" and request.config:
        note = chat_templates.missing_note(request.config, settings.workspace)
        plan = replace(plan, notes=(*plan.notes, note)) if note else plan
    if request.config is None and request.script is None:
        return plan
    if request.nodes > 1:
        # The processes meet those of other nodes on the host's network.
        environment = {**plan.environment, **loaded.node_environment}
        devices = (*plan.devices, *plans.node_devices(loaded, look(settings.host_root)))
        plan = replace(plan, network="host", environment=environment, devices=devices)
    return replace(plan, ranks=request.ranks)


def _make(
    job: str,
    argv: Sequence[str],
    access: mounts.Access,
    settings: Settings,
    loaded: Backend,
    choices: Choices,
) -> Plan:
    """Return the plan of a container.

    Folders and image are the program's: upstream's predictor imports packages that our own
    inference does without.
    """
    program = find(argv[0])
    mounted, outputs = mounts.find(settings.workspace, access, {*find(job).writes, *program.writes})
    plan = plans.make(
        find(job),
        argv[1:],
        settings,
        loaded,
        user=run_as(settings.workspace),
        suffix=secrets.token_hex(3),
        debug=os.environ.get(DEBUG_SWITCH) == "1",
        host=look(settings.host_root),
        cards=choices.cards,
        machine_mib=memory_mib(),
        mounts=mounted,
        outputs=outputs,
    )
    return replace(plan, argv=tuple(argv), image=plans.image_name(program.image, loaded.name))


def _check_script(job: str, options: UpstreamOptions, loaded: Backend, *, recipe: bool) -> None:
    """Check that the backend's images have upstream's program.

    Raises:
        RequestError: they do not.
    """
    if loaded.devices or options.script.endswith(upstream.PREDICT):
        return
    remedy = f"./inv {job} --backend dcu --recipe NAME; ./inv recipes --backend dcu lists them"
    if job == "upstream":
        own = replace(options, arguments=()).argv()
        remedy = f"./inv upstream {shlex.join(own)} --backend dcu"
        remedy += f" -- {shlex.join(options.arguments)}" if options.arguments else ""
    raise RequestError(
        f"{job} runs upstream's program, which is in the images for a DCU only",
        where=f"--backend {loaded.name}",
        remedy=remedy,
    )


def _check_access(options: ServeOptions, loaded: Backend) -> None:
    """Check that a server is open to this machine only, or has API keys.

    Raises:
        RequestError: it is open to the network, or its port is not fixed.
    """
    if options.api_keys is None and not serving.is_loopback(options.host):
        raise RequestError(serving.open_to_the_network(options.host))
    if options.port == 0 and loaded.network != "host":
        raise RequestError(
            "--port must be in 1 … 65535, got 0", where="serve", remedy="--port 8000"
        )


def _host_address(options: ServeOptions) -> str:
    return serving.LOOPBACK if options.host == "localhost" else options.host


def _inside_container(options: ServeOptions, loaded: Backend) -> ServeOptions:
    """Return a server's options in its container, where the engine publishes the port.

    The engine listens on the host's address, and the server on all of its container.
    """
    if loaded.network == "host":
        return replace(options, api_keys=None, host=_host_address(options), published=False)
    return replace(options, api_keys=None, host=serving.LOOPBACK, published=True)


def _published(plan: Plan, options: ServeOptions, loaded: Backend) -> Plan:
    """Return the plan of a server with its port, and its keys as a secret."""
    if options.api_keys is not None:
        secret = plans.Secret("api_keys", str(Path(options.api_keys).absolute()))
        plan = replace(plan, secrets=(*plan.secrets, secret))
    if loaded.network == "host":
        return plan
    return replace(plan, ports=(plans.Port(_host_address(options), options.port),))


def check_files(plan: Plan) -> None:
    """Check the files of its workspace that a plan needs, wherever it will run.

    Raises:
        RequestError: the job cannot use its files.
        MachineError: its user cannot write there.
    """
    preflight.check_request(plan)
    preflight.check_workspace(plan)


def check_requests(steps: Steps) -> None:
    """Check data, model and configuration of a job and of the steps before it, as the run does.

    The output of a step before the job does not exist yet, and is not checked.

    Raises:
        RequestError: with one problem for each fault.
    """
    pending = [step for step in steps.before if not step.whole]
    names = [part for step in pending for part in Path(step.produces).parts[1:]]
    problems: list[Problem] = []
    for plan in (*(step.plan for step in pending), steps.plan):
        try:
            preflight.check_request(plan)
        except RequestError as error:
            problems += [
                problem
                for problem in error.problems
                if not any(name in f"{problem.what} {problem.where}" for name in names)
            ]
    if problems:
        raise RequestError(list(dict.fromkeys(problems)))


def run_folder(plan: Plan) -> Path | None:
    """Return the folder of a job's plan and log; None if it has none."""
    run = plan.request.run if plan.request else None
    return plan.workspace / run if run else None


def _announcement(plan: Plan) -> str:
    return show.as_line(plan) if sys.stderr.isatty() else show.as_text(plan)

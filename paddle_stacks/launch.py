"""One job from its arguments to its exit status: plan, say so, check, run."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
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
from paddle_stacks.jobs import (
    chat_templates,
    quantizing,
    schema,
    serving,
    upstream,
    validation,
    workspace,
)
from paddle_stacks.jobs.arguments import as_upstream, parse, parser, words
from paddle_stacks.jobs.catalog import find
from paddle_stacks.jobs.schema.values import key_value
from paddle_stacks.ownership import run_as
from paddle_stacks.plan import Backend, Plan, backend, mounts, show
from paddle_stacks.recipes import Recipe
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

# The jobs that are a script of upstream's with a configuration.
_SCRIPTS = {"quantize": "run_finetune.py"}

# The jobs that train with a configuration of ours, and keep a plan and a log in the run's folder.
_TRAININGS = ("finetune", "pretrain")


@dataclass(frozen=True)
class Choices:
    """What the caller chose besides the job's own arguments.

    Args:
        profile: one of the backend's profiles; empty for none.
        cards: the cards to use; none for all of them.
        recipe: the recipe to follow; empty for none.
        changes: ``KEY=VALUE`` of a recipe's configuration or options.
    """

    profile: str = ""
    cards: tuple[int, ...] = ()
    recipe: str = ""
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A job that has to be done before another.

    Args:
        plan: of the job.
        produces: what it makes, in the workspace.
        whole: whether that is there already.
        recipe: the recipe that it follows; empty for a fetched model.
    """

    plan: Plan
    produces: str
    whole: bool
    recipe: str = ""


@dataclass(frozen=True)
class Steps:
    """A job, and what has to be done before it.

    Args:
        before: in order.
        plan: the job's.
        recipe: that the job follows; empty for none.
    """

    before: tuple[Step, ...]
    plan: Plan
    recipe: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as a value that JSON can hold: the plan's, with what comes before it."""
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

# The images of which this process has said that they are not verified.
_TOLD: set[str] = set()

# The arguments that name a file or a folder.
_PATHS = {"config", "input", "output", "model", "adapter", "resume", "source", "plot"}


def launch(
    job: str, arguments: Sequence[str], settings: Settings, choices: Choices = _NO_CHOICE
) -> int:
    """Plan a job, print the plan, check what it needs, run it, and return its exit status.

    Args:
        job: its name.
        arguments: its arguments.
        settings: the backend, the workspace and so on.
        choices: profile, cards and recipe.

    Raises:
        StackError: the request is wrong, the machine is not fit, or the job was
            ended from outside.
    """
    steps = make_steps(job, arguments, settings, choices)
    if steps.before:
        # Not after a model of 26 GB has been fetched.
        preflight.check_machine(steps.plan, settings)
    for step in steps.before:
        if step.whole:
            print(f"there already: {step.produces}", file=sys.stderr)
            continue
        print(_announcement(step.plan), file=sys.stderr)
        if status := run(step.plan, settings):
            return status
    print(_announcement(steps.plan), file=sys.stderr)
    return run(steps.plan, settings)


def run(plan: Plan, settings: Settings) -> int:
    """Check what a plan needs, carry it out, and return the job's exit status."""
    check_files(plan)
    preflight.check_machine(plan, settings)
    preflight.check_ports(plan)
    from paddle_stacks import engine
    from paddle_stacks.executors import docker
    from paddle_stacks.executors.record import RunRecord

    client = engine.connect()
    preflight.check_image(plan, client)
    _tell_unverified(plan, preflight.check_verified(plan, settings, client))
    preflight.check_operators(plan, settings, client)
    if _reads_standard_input(_parsed(plan)):
        return docker.attach(plan)
    record = None
    if folder := run_folder(plan):
        record = RunRecord(folder, plan.workspace, show.as_json(plan), plan.user)
    return docker.execute(plan, client, record=record)


def shell(job: str, settings: Settings, choices: Choices = _NO_CHOICE) -> int:
    """Open a shell in a container such as a job has, and return the shell's exit status.

    Image, user, mounts, devices, limits and rights are the job's; standard input is the shell's.

    Args:
        job: its name.
        settings: the backend, the workspace and so on.
        choices: profile and cards.

    Raises:
        StackError: there is no such job or backend, or the machine is not fit.
    """
    platform = backend.load(settings.backend, settings.root, choices.profile)
    plan = _plan(job, (find(job).name,), settings, platform, choices, mounts.Access())
    preflight.check_machine(plan, settings)
    from paddle_stacks import engine
    from paddle_stacks.executors import docker

    client = engine.connect()
    preflight.check_image(plan, client)
    _tell_unverified(plan, preflight.check_verified(plan, settings, client))
    note = f"{_announcement(plan)}\nnote: `entry {job} …` runs the job in it"
    print(note, file=sys.stderr)
    return docker.attach(replace(plan, argv=()), entrypoint="bash")


def _tell_unverified(plan: Plan, why: str) -> None:
    """Say, once for each image, that it is not verified, and why."""
    if why and plan.image not in _TOLD:
        _TOLD.add(plan.image)
        note = f"note: {plan.image} is not verified: {why}; {plan.verify_command}"
        print(note, file=sys.stderr)


def make_plan(
    job: str, arguments: Sequence[str], settings: Settings, choices: Choices = _NO_CHOICE
) -> Plan:
    """Return the plan of a job, after a check of its arguments.

    Raises:
        RequestError: there is no such job, backend, profile or recipe, the arguments
            are wrong, or what is asked for cannot work on the platform's cards.
    """
    return make_steps(job, arguments, settings, choices).plan


def make_steps(
    job: str, arguments: Sequence[str], settings: Settings, choices: Choices = _NO_CHOICE
) -> Steps:
    """Return a job's plan with those of what has to be done before it.

    Raises:
        RequestError: as :func:`make_plan`.
    """
    find(job)
    platform = backend.load(settings.backend, settings.root, choices.profile)
    if choices.cards and not platform.card_variable:
        raise RequestError(
            f"{platform.name} has no cards to pick", where="--devices", remedy="--backend dcu"
        )
    if not choices.recipe:
        if choices.changes:
            raise RequestError(f"{job} has no --set", where=job, remedy="it is for --recipe NAME")
        plan = _plan_of_arguments(job, arguments, settings, platform, choices)
        return Steps((), _with_notes(plan, settings, platform))
    known = recipes.load(settings.root, settings.backend)
    recipe = recipes.find(choices.recipe, settings.root, settings.backend, job)
    if model := _model_beside_recipe(recipe, arguments):
        known = {
            name: recipes.with_model(each, model, settings.root)
            for name, each in known.items()
            if each.model == recipe.model
        }
        recipe = known[recipe.name]
    plan = _plan_of_recipe(recipe, arguments, settings, platform, choices)
    before = [
        Step(
            _plan_of_recipe(each, (), settings, platform, _for_step(each, choices)),
            each.produces,
            recipes.is_whole(each, settings.workspace),
            each.name,
        )
        for each in recipes.steps(recipe, known)
    ]
    # What is there already needs no model any more to be made of.
    needed = [known[step.recipe] for step in before if not step.whole] + [recipe]
    fetched = [
        step for model in _models(needed) if (step := _fetch_step(model, settings, platform))
    ]
    return Steps((*fetched, *before), _with_notes(plan, settings, platform), recipe.name)


def _with_notes(plan: Plan, settings: Settings, platform: Backend) -> Plan:
    """Return the plan with what is wrong with the host of its devices, but no reason to refuse."""
    nodes = getattr(_parsed(plan), "nnodes", None) or 1
    more = notes.notes(plan, platform, settings.host_root, nodes=nodes)
    return replace(plan, notes=(*plan.notes, *more))


def print_plan(steps: Steps, *, as_json: bool) -> None:
    """Print the plan on standard output: one JSON document, or text and a command line."""
    if as_json:
        print(json.dumps(steps.as_json(), indent=2, ensure_ascii=False))
        return
    for step in steps.before:
        state = "there already" if step.whole else "first"
        print(f"{state}: {step.produces}")
        print("\n".join(f"  {line}" for line in _text(step.plan).splitlines()) + "\n")
    print(_text(steps.plan))


def _text(plan: Plan) -> str:
    sources = mounts.to_make(plan.mounts, plan.workspace)
    missing = [source for source in sources if not Path(source).exists()]
    made = f"mkdir -p {shlex.join(missing)}\n" if missing else ""
    lines = [f"plan: {plan.job} on {plan.backend}", *show.beside_command(plan), ""]
    return "\n".join([*lines, made + show.as_docker_command(plan)])


def _plan_of_arguments(
    job: str,
    arguments: Sequence[str],
    settings: Settings,
    platform: Backend,
    choices: Choices,
) -> Plan:
    made = parser(job)
    parsed = parse(job, arguments, settings.backend)
    _move_into_workspace(parsed, settings.workspace)
    if job in _TRAININGS:
        return _plan_of_training(job, parsed, settings, platform, choices)
    if job == "serve":
        return _plan_of_server(parsed, settings, platform, choices)
    if job == "quantize" and not platform.devices:
        quantizing.load(parsed, settings.workspace, settings.backend)
        return _plan(job, (job, *words(made, parsed)), settings, platform, choices)
    if job not in (*_SCRIPTS, "upstream"):
        return _plan(job, (job, *words(made, parsed)), settings, platform, choices)
    line = words(made, parsed) if job == "upstream" else as_upstream(_SCRIPTS[job], parsed)
    return _plan_of_upstream(job, line, settings, platform, choices)


def _plan_of_training(
    job: str,
    arguments: argparse.Namespace,
    settings: Settings,
    platform: Backend,
    choices: Choices,
    instead: str = "",
) -> Plan:
    """Return the plan of a training of ours, after a check of what can be known here.

    Args:
        job: ``finetune`` or ``pretrain``.
        arguments: the job's.
        settings: of this command.
        platform: where it is for.
        choices: cards and profile.
        instead: what to do where the memory does not suffice; empty: the usual.
    """
    _check_nodes(arguments)
    ranks, nodes = arguments.ranks, arguments.nnodes or 1
    config = schema.load(
        settings.workspace / arguments.config,
        arguments.set,
        job=job,
        backend=settings.backend,
        world=ranks * nodes,
    )
    feasibility.check_config(
        config,
        settings,
        platform,
        choices.cards,
        ranks=ranks,
        nodes=nodes,
        allow_bf16=arguments.allow_bf16,
        instead=instead,
    )
    line = words(parser(job), arguments)
    plan = _plan(job, (job, *line), settings, platform, choices)
    if job == "finetune" and (note := chat_templates.missing_note(config, settings.workspace)):
        plan = replace(plan, notes=(*plan.notes, note))
    return _spread(plan, settings, platform, ranks, nodes)


def _check_nodes(arguments: argparse.Namespace) -> None:
    """Check the options about several machines: the container has no other source for them.

    Raises:
        RequestError: they are incomplete or out of range.
    """
    nodes = arguments.nnodes or 1
    if problems := validation.node_problems(nodes, arguments.master or "", arguments.rank):
        raise RequestError(problems)


def _spread(plan: Plan, settings: Settings, platform: Backend, ranks: int, nodes: int) -> Plan:
    """Return the plan of a job in several processes, which meet others' on the host's network."""
    if nodes > 1:
        environment = {**plan.environment, **platform.node_environment}
        devices = (*plan.devices, *plans.node_devices(platform, look(settings.host_root)))
        plan = replace(plan, network="host", environment=environment, devices=devices)
    return replace(plan, ranks=ranks)


def _plan_of_server(
    parsed: argparse.Namespace, settings: Settings, platform: Backend, choices: Choices
) -> Plan:
    """Return the plan of a server: its port, and its keys as a secret.

    Raises:
        RequestError: anybody could use it: no keys, and a port that others reach.
    """
    keys, address, number = parsed.api_keys, parsed.host, parsed.port
    if keys is None and not serving.is_loopback(address):
        raise RequestError(serving.open_to_the_network(address))
    if number == 0 and platform.network != "host":
        raise RequestError(
            "--port must be in 1 … 65535, got 0", where="serve", remedy="--port 8000"
        )
    address = serving.LOOPBACK if address == "localhost" else address
    # The engine listens on the host's address, and the server on those of its container.
    parsed.api_keys, parsed.host, parsed.published = None, serving.LOOPBACK, True
    if platform.network == "host":
        parsed.host, parsed.published = address, False
    plan = _plan("serve", ("serve", *words(parser("serve"), parsed)), settings, platform, choices)
    secret = () if keys is None else (plans.Secret("api_keys", str(Path(keys).absolute())),)
    ports = () if platform.network == "host" else (plans.Port(address, number),)
    return replace(plan, secrets=(*plan.secrets, *secret), ports=ports)


def _plan_of_recipe(
    recipe: Recipe,
    arguments: Sequence[str],
    settings: Settings,
    platform: Backend,
    choices: Choices,
) -> Plan:
    """Return the plan of a recipe.

    Args:
        recipe: what to do.
        arguments: of the job; only those that say where it runs, and its name.
        settings: of this command.
        platform: where it is for.
        choices: cards, profile and changes.
    """
    given = _given_beside_recipe(recipe, arguments)
    if recipe.job == "prepare":
        options = {**_changed(recipe, choices.changes, recipe.name), "output": recipe.produces}
        line = _options({**options, "model": recipe.model})
        return _plan_of_arguments("prepare", line, settings, platform, choices)
    if recipe.config and not (settings.workspace / recipe.config).is_file():
        raise RequestError(
            f"the recipe's configuration is not in the workspace: {recipe.config}",
            where=str(settings.workspace),
            remedy=f"cp --parents {recipe.config} {settings.workspace} (in {settings.root})",
        )
    if recipe.job == "quantize" and not recipe.script:
        return _plan_of_quantization(recipe, given, settings, platform, choices)
    if not recipe.script:
        name = given.get("name") or recipe.name
        line = ["--config", recipe.config, "--name", name]
        for change in choices.changes:
            line += ["--set", change]
        for key in ("ranks", "nnodes", "master", "rank", "wait"):
            line += [f"--{key}", given[key]] if given.get(key) else []
        parsed = parse(recipe.job, line, settings.backend)
        return _plan_of_training(
            recipe.job, parsed, settings, platform, choices, _instead(recipe, platform)
        )
    nnodes = int(given.get("nnodes") or recipe.nodes)
    if nnodes > 1 and not given.get("master"):
        raise RequestError(
            f"{recipe.name} runs on {nnodes} nodes, which have to know where they meet",
            where="--master",
            remedy=f"./inv {recipe.job} --recipe {recipe.name} --master HOST:PORT --rank N, with "
            "an address of node 0, on each node another rank from 0",
        )
    ranks = int(given.get("ranks") or recipe.cards)
    line = ["--name", given.get("name") or recipe.name]
    line += ["--ranks", str(ranks)] if ranks > 1 else []
    line += ["--nnodes", str(nnodes)] if nnodes > 1 else []
    for key in ("master", "rank", "wait"):
        line += [f"--{key}", given[key]] if given.get(key) else []
    line += ["--allow-bf16"] if given.get("allow_bf16") else []
    line += [recipe.script, *([recipe.config] if recipe.config else [])]
    line += _options(_changed(recipe, choices.changes, given.get("name") or recipe.name))
    return _plan_of_upstream(
        recipe.job, line, settings, platform, choices, _instead(recipe, platform)
    )


def _plan_of_quantization(
    recipe: Recipe,
    given: Mapping[str, str],
    settings: Settings,
    platform: Backend,
    choices: Choices,
) -> Plan:
    """Return the plan of a quantization on a CPU: our own program, with upstream's keys."""
    values = _changed(recipe, choices.changes, recipe.name)
    line = ["--config", recipe.config]
    for key, value in values.items():
        line += ["--set", f"{key}={value}"]
    line += [word for key, value in given.items() if key != "model" for word in (f"--{key}", value)]
    return _plan_of_arguments("quantize", line, settings, platform, choices)


def _given_beside_recipe(recipe: Recipe, arguments: Sequence[str]) -> dict[str, str]:
    """Return the arguments that a recipe leaves to the caller."""
    spread = ("name", *recipes.DISTRIBUTED)
    allowed = {
        "prepare": (),
        "finetune": ("name",),
        "pretrain": spread,
        "quantize": (*spread, "model"),
    }.get(recipe.job, ("name", "model"))
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        name = option.lstrip("-").replace("-", "_")
        if not option.startswith("--") or name not in allowed:
            raise RequestError(
                f"the recipe {recipe.name} decides {option}",
                where=option,
                remedy="change what it does with --set KEY=VALUE, or leave --recipe out",
            )
        if name == "allow_bf16":
            found[name] = "yes"
        else:
            found[name] = value if equals else rest.pop(0) if rest else ""
    return found


def _model_beside_recipe(recipe: Recipe, arguments: Sequence[str]) -> str:
    """Return the model that replaces the recipe's own, as a name in ``models/``; empty if none.

    Raises:
        RequestError: it is a path outside ``models/``.
    """
    value = _given_beside_recipe(recipe, arguments).get("model", "")
    model = value.removeprefix("models/").rstrip("/")
    if not value or re.fullmatch(r"[\w][\w.-]*", model):
        return model
    raise RequestError(
        f'"{value}" is not the name of a model in models/',
        where="--model",
        remedy=f"copy it to models/{Path(value).name}, then --model {Path(value).name}",
    )


def _changed(recipe: Recipe, changes: Sequence[str], name: str) -> dict[str, Any]:
    """Return a recipe's options with the caller's changes."""
    found = dict(recipe.arguments)
    if recipe.script.endswith("predictor.py"):
        found["output_file"] = f"runs/{name}/output.json"
    for text in changes:
        key, value = key_value(text, "top_p=0.9")
        found[key] = value
    return found


def _options(arguments: Mapping[str, Any]) -> list[str]:
    line: list[str] = []
    for key, value in arguments.items():
        line.append(f"--{key}")
        line += [] if value is True else [str(value).lower() if value is False else str(value)]
    return line


def _plan_of_upstream(
    job: str,
    line: Sequence[str],
    settings: Settings,
    platform: Backend,
    choices: Choices,
    instead: str = "",
) -> Plan:
    """Return the plan of a run of upstream's program, after a check of what can be known here."""
    parsed = parse("upstream", line, settings.backend)
    if not platform.devices and not parsed.script.endswith(upstream.PREDICT):
        raise RequestError(
            f"{job} runs upstream's program, which is in the images for a DCU only",
            where=f"--backend {platform.name}",
            remedy=_on_a_dcu(job, line),
        )
    _check_nodes(parsed)
    feasibility.check_upstream(parsed, settings, platform, choices.cards, instead=instead)
    plan = _plan(job, ("upstream", *line), settings, platform, choices)
    return _spread(plan, settings, platform, parsed.ranks, parsed.nnodes or 1)


def _on_a_dcu(job: str, line: Sequence[str]) -> str:
    """Return the command that runs upstream's program where it is."""
    if job != "upstream":
        return f"./inv {job} --backend dcu --recipe NAME; ./inv recipes --backend dcu lists them"
    parsed = parser(job).parse_args(list(line))
    options = line[: len(line) - len(parsed.arguments)]
    command = f"./inv upstream {shlex.join(options)} --backend dcu"
    return f"{command} -- {shlex.join(parsed.arguments)}" if parsed.arguments else command


def _plan(
    job: str,
    argv: Sequence[str],
    settings: Settings,
    platform: Backend,
    choices: Choices,
    access: mounts.Access | None = None,
) -> Plan:
    access = access or access_of(argv, settings.workspace)
    # The program's folders, not the job's: what a recipe runs may be upstream's.
    seen, outputs = mounts.find(
        settings.workspace, access, {*find(job).writes, *find(argv[0]).writes}
    )
    made = plans.make(
        find(job),
        argv[1:],
        settings,
        platform,
        user=run_as(settings.workspace),
        suffix=secrets.token_hex(3),
        debug=os.environ.get(DEBUG_SWITCH) == "1",
        host=look(settings.host_root),
        cards=choices.cards,
        machine_mib=memory_mib(),
        mounts=seen,
        outputs=outputs,
    )
    # The program's image, not the job's: upstream's predictor imports packages that our own
    # inference does without.
    image = plans.image_name(find(argv[0]).image, platform.name)
    return replace(made, argv=tuple(argv), image=image)


def _for_step(recipe: Recipe, choices: Choices) -> Choices:
    """Return the caller's choices for a step before the job: fewer cards may do for it."""
    return replace(choices, recipe=recipe.name, changes=(), cards=choices.cards[: recipe.cards])


def _models(wanted: Sequence[Recipe]) -> list[str]:
    return list(dict.fromkeys(recipe.model for recipe in wanted if recipe.model))


def _fetch_step(model: str, settings: Settings, platform: Backend) -> Step | None:
    """Return the step that fetches a model; None where it is there."""
    try:
        workspace.find_model(model, settings.workspace)
    except RequestError:
        plan = _plan("fetch", ("fetch", model), settings, platform, _NO_CHOICE)
        return Step(plan, f"models/{model}", whole=False)
    return None


def _instead(recipe: Recipe, platform: Backend) -> str:
    """Return the command of the recipe that works in the place of another; empty if none."""
    if not recipe.instead:
        return ""
    return f"./inv {recipe.job} --backend {platform.name} --recipe {recipe.instead}"


def check_files(plan: Plan) -> None:
    """Check what a plan needs of its workspace, wherever it will run.

    Raises:
        RequestError: the job's own files are not as it needs them.
        MachineError: its user may not write there.
    """
    preflight.check_request(plan, _parsed(plan))
    preflight.check_workspace(plan)


def check_requests(steps: Steps) -> None:
    """Check data, model and configuration of a job and of the steps before it, as the run does.

    What a step before the job produces does not exist yet, and is not asked for.

    Raises:
        RequestError: with one problem for each fault.
    """
    pending = [step for step in steps.before if not step.whole]
    names = [Path(step.produces).name for step in pending]
    problems: list[Problem] = []
    for plan in (*(step.plan for step in pending), steps.plan):
        try:
            preflight.check_request(plan, _parsed(plan))
        except RequestError as error:
            problems += [
                problem
                for problem in error.problems
                if not any(name in f"{problem.what} {problem.where}" for name in names)
            ]
    if problems:
        raise RequestError(list(dict.fromkeys(problems)))


def _parsed(plan: Plan) -> argparse.Namespace:
    # Not always the job's own program: a recipe can stand on upstream's.
    return parser(plan.argv[0]).parse_args(list(plan.argv[1:]))


def run_folder(plan: Plan) -> Path | None:
    """Return the folder in which a job's plan and log are kept; None if it has none."""
    arguments = _parsed(plan)
    if plan.argv[0] == "upstream":
        return plan.workspace / upstream.run_folder(arguments)
    if plan.argv[0] not in _TRAININGS:
        return None
    config = preflight.training_config(plan, arguments)
    folder = workspace.run_folder(arguments.name, arguments.config, config["output_dir"])
    return plan.workspace / folder


def _move_into_workspace(arguments: argparse.Namespace, workspace: Path) -> None:
    """Make the paths among the arguments relative to the workspace, as a job sees them."""
    problems: list[Problem] = []
    for key, value in vars(arguments).items():
        if key not in _PATHS or value is None:
            continue
        if isinstance(value, list):
            for at, text in enumerate(value):
                value[at] = _inside(text, workspace, problems)
            continue
        # Where a model comes from can be gguf:PATH or scratch:PATH.
        prefix = next((p for p in ("gguf:", "scratch:") if str(value).startswith(p)), "")
        inside = _inside(str(value).removeprefix(prefix), workspace, problems)
        setattr(arguments, key, type(value)(prefix + inside))
    if problems:
        raise RequestError(problems)


def _inside(path: str, workspace: Path, problems: list[Problem]) -> str:
    """Return a path as a job sees it; one that it cannot see is added to the problems."""
    if not path.startswith(("/", "..")):
        return path
    inside = os.path.relpath(workspace / path, workspace)
    if inside.startswith(".."):
        what = f"{path} is outside the workspace, which is all that a job sees"
        problems.append(Problem(what, str(workspace), "move or copy it there"))
    return inside


def _announcement(plan: Plan) -> str:
    if not sys.stderr.isatty():
        return show.as_text(plan)
    return show.as_line(plan)


def _reads_standard_input(arguments: argparse.Namespace) -> bool:
    values = vars(arguments)
    inputs = values.get("input")
    inputs = inputs if isinstance(inputs, list) else [inputs]
    return bool(values.get("chat")) or "-" in (values.get("prompt"), *inputs)

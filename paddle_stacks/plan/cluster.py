"""A plan as what a cluster's scheduler takes: a script for Slurm, documents for Kubernetes.

The files in ``configs/cluster/`` say what it looks like. They are templates rather than
values turned into YAML, because their comments tell who submits them why something is there.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.plan.backend import Backend
from paddle_stacks.plan.make import Plan
from paddle_stacks.plan.show import docker_arguments

__all__ = [
    "HOURS",
    "as_slurm",
    "cards",
    "has_registry",
    "on_a_node",
    "problems_of",
    "render",
    "title",
]

HOURS = 24
"""How long a job may take if nothing else is said."""

_TEMPLATES = Path(__file__).parents[2] / "configs" / "cluster"

# The programs that several machines can share, and the options by which they would meet,
# which a scheduler says in variables.
_SHARED = frozenset({"pretrain", "quantize", "upstream"})
_MEETING = ("--nnodes", "--master", "--rank")

_NO_NEW_PRIVILEGES = "no-new-privileges"
_NO_SECCOMP = "seccomp=unconfined"


def as_slurm(plan: Plan, backend: Backend, nodes: int = 1, *, hours: int = HOURS) -> str:
    """Return a script for ``sbatch`` that runs the plan's container on every node.

    What only a node knows is looked up there when the job starts: the groups of its
    device nodes, devices that not every driver has, and the cards that Slurm gave.

    Args:
        plan: what to run.
        backend: the platform that it was made for.
        nodes: how many.
        hours: after which Slurm ends the job.

    Raises:
        RequestError: the plan cannot be run so; all reasons at once.
    """
    workspace = str(plan.workspace)
    problems = problems_of(plan, nodes, hours)
    if re.search(r"[\\\x00-\x1f\x7f]", workspace):
        what = "sbatch takes no backslash and no control character in the name of a log"
        problems.append(Problem(what, workspace, "rename the workspace"))
    if problems:
        raise RequestError(problems)
    own = on_a_node(plan, backend, nodes)
    words = [group for group in docker_arguments(own) if group[0] != "--name"]
    words.insert(1, ["--pull", "missing" if has_registry(plan.image) else "never"])
    sources = [device.source for device in own.devices]
    optional = [(_beside(plan, path), path) for path in backend.optional_devices]
    return render(
        "slurm.sh.j2",
        title=title(plan, nodes),
        name=_name(plan),
        nodes=nodes,
        hours=hours,
        gres=backend.slurm_gres,
        cards=cards(plan),
        card_variable=backend.card_variable,
        grace_seconds=plan.grace_seconds,
        log=shlex.quote(f"{workspace.replace('%', '%%')}/%x-%j.log"),
        optional=[tuple(map(shlex.quote, pair)) for pair in optional],
        group_sources=[
            shlex.quote(path)
            for path in (*sources, *(source for source, _ in optional))
            if backend.device_groups
        ],
        words=[shlex.join(group) for group in words],
    )


def on_a_node(plan: Plan, backend: Backend, nodes: int) -> Plan:
    """Return the plan without what a node or the scheduler says, and with what several need."""
    several = nodes > 1
    kept = {k: v for k, v in plan.environment.items() if k != backend.card_variable}
    return replace(
        plan,
        argv=_without_meeting(plan.argv),
        environment={**kept, **(backend.node_environment if several else {})},
        devices=tuple(d for d in plan.devices if d.target not in backend.optional_devices),
        groups=() if backend.device_groups else plan.groups,
        # RCCL takes ports as it likes, and the fabric's adapters are the machine's.
        network="host" if several else plan.network,
    )


def cards(plan: Plan) -> int:
    """Return how many cards a node has to give; which ones is the scheduler's to say."""
    return max(plan.ranks, len(plan.cards))


def _beside(plan: Plan, path: str) -> str:
    """Return where a node of the host is, which may be a simulated one."""
    for device in plan.devices:
        if device.source.endswith(device.target):
            return device.source.removesuffix(device.target) + path
    return path


def _name(plan: Plan) -> str:
    # The number that Slurm gives to the job is what makes a container's name unique.
    return f"paddle-stacks-{plan.job}"


def title(plan: Plan, nodes: int) -> str:
    """Return the first line of what is written."""
    where = f"{nodes} nodes" if nodes > 1 else "one node"
    return f"{plan.job} on {plan.backend}, {where}: written by ./inv render."


def has_registry(image: str) -> bool:
    """Whether a reference begins with a host, as the engine tells it."""
    first, slash, _ = image.partition("/")
    return bool(slash) and (first == "localhost" or "." in first or ":" in first)


def problems_of(plan: Plan, nodes: int, hours: int) -> list[Problem]:
    """Return why no scheduler can run a plan; nothing where one can."""
    found = []
    if nodes < 1:
        found.append(Problem(f"there is no running on {nodes} nodes", "--nodes", "1 or more"))
    if hours < 1:
        found.append(Problem(f"no job is done in {hours} hours", "--hours", "1 or more"))
    # What runs in the container counts: a recipe may run another program than its job's own.
    program = plan.argv[0]
    if nodes > 1 and program not in _SHARED:
        found.append(Problem(f"{program} runs on one node", "--nodes", "leave --nodes out"))
    if _reads_standard_input(plan.argv):
        found.append(
            Problem(
                "a scheduled job has no standard input",
                plan.job,
                "give the input as a file in the workspace",
            )
        )
    return found


def _reads_standard_input(argv: Sequence[str]) -> bool:
    if argv[0] != "infer":
        return False
    pairs = set(pairwise(argv))
    return "--chat" in argv or bool(pairs & {("--prompt", "-"), ("--input", "-")})


def _without_meeting(argv: Sequence[str]) -> tuple[str, ...]:
    """Return a command line without what says where nodes meet; a script's own words stay."""
    if argv[0] not in _SHARED:
        return tuple(argv)
    kept: list[str] = []
    rest = list(argv)
    while rest and not rest[0].endswith(".py"):
        word = rest.pop(0)
        option, equals, _ = word.partition("=")
        if option not in _MEETING:
            kept.append(word)
        elif not equals and rest:
            rest.pop(0)
    return (*kept, *rest)


def render(template: str, **values: Any) -> str:
    """Return the text of a template in ``configs/cluster/``."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["json"] = _json
    return environment.get_template(template).render(values)


def _json(value: Any) -> str:
    """Return a value as JSON that is YAML as well.

    YAML takes no character that cannot be printed, and takes a pair of surrogates, as
    JSON has them, for two characters.
    """
    if isinstance(value, Mapping):
        value = dict(value)
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in text)

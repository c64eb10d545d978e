"""A plan as what a cluster's scheduler takes: a script for Slurm, documents for Kubernetes.

The files in ``configs/cluster/`` say what it looks like. They are templates rather than
values turned into YAML, because their comments tell who submits them why something is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem
from paddle_stacks.plan.backend import Backend
from paddle_stacks.plan.make import Plan

__all__ = [
    "HOURS",
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
_SHARED = frozenset({"finetune", "pretrain", "quantize", "upstream"})
_MEETING = ("--nnodes", "--master", "--rank")


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
        memory_mib=0,
        # RCCL takes ports as it likes, and the fabric's adapters are the machine's.
        network="host" if several else plan.network,
    )


def cards(plan: Plan) -> int:
    """Return how many cards a node has to give; which ones is the scheduler's to say."""
    return max(plan.ranks, len(plan.cards))


def title(plan: Plan, nodes: int) -> str:
    """Return the first line of what is written."""
    where = f"{nodes} nodes" if nodes > 1 else "one node"
    return f"{plan.job} on {plan.backend}, {where}: written by ./inv cluster.render."


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
    if program == "serve":
        what = "a server is reached by a port and does not end, which a scheduled job is not for"
        found.append(Problem(what, program, "./inv serve on the node, or Compose"))
    if plan.outputs:
        found.append(
            Problem(
                "nobody moves an output into the workspace's root when a scheduled job ends",
                plan.outputs[0],
                f"name a place in a folder that jobs write to: runs/{plan.outputs[0]}",
            )
        )
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

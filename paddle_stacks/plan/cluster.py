"""Code shared by the renderers of plans for Slurm and Kubernetes.

The templates are in ``configs/cluster/``. They are text with comments, not serialized
values, so that whoever submits the result can read the reasons in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem
from paddle_stacks.plan.backend import Backend
from paddle_stacks.plan.make import Plan

__all__ = [
    "HOURS",
    "device_count",
    "has_registry",
    "node_plan",
    "problems",
    "render",
    "title",
]

HOURS = 24
"""The default time limit of a job."""

_TEMPLATES = Path(__file__).parents[2] / "configs" / "cluster"

# The programs that can run on several nodes, and their options for the rendezvous, which a
# scheduler sets by environment variables.
_MULTI_NODE = frozenset({"finetune", "pretrain", "quantize", "upstream"})
_RENDEZVOUS = ("--nnodes", "--master", "--rank")


def node_plan(plan: Plan, backend: Backend, nodes: int) -> Plan:
    """Return the plan for one node, without everything that the node or scheduler determines."""
    several = nodes > 1
    environment = {k: v for k, v in plan.environment.items() if k != backend.card_variable}
    optional = (*backend.optional_devices, *backend.node_devices)
    return replace(
        plan,
        argv=_without_rendezvous(plan.argv),
        environment={**environment, **(backend.node_environment if several else {})},
        devices=tuple(d for d in plan.devices if d.target not in optional),
        groups=() if backend.device_groups else plan.groups,
        memory_mib=0,
        # RCCL uses arbitrary ports, and only the host's network has the fabric's adapters.
        network="host" if several else plan.network,
    )


def device_count(plan: Plan) -> int:
    """Return the number of devices to request per node; the scheduler chooses which."""
    return max(plan.ranks, len(plan.cards))


def title(plan: Plan, nodes: int) -> str:
    """Return the first line of the rendered text."""
    where = f"{nodes} nodes" if nodes > 1 else "one node"
    return f"{plan.job} on {plan.backend}, {where}: written by ./inv cluster.render."


def has_registry(image: str) -> bool:
    """Return whether an image reference has a registry, by the engine's rule."""
    first, slash, _ = image.partition("/")
    return bool(slash) and (first == "localhost" or "." in first or ":" in first)


def problems(plan: Plan, nodes: int, hours: int) -> list[Problem]:
    """Return the reasons why no scheduler can run a plan; empty if one can."""
    problems = []
    if nodes < 1:
        problems.append(Problem(f"--nodes must be at least 1, got {nodes}", "--nodes", "--nodes 1"))
    if hours < 1:
        problems.append(
            Problem(f"--hours must be at least 1, got {hours}", "--hours", "--hours 24")
        )
    # The container's program, because a recipe may run another program than its job's.
    program = plan.argv[0]
    if nodes > 1 and program not in _MULTI_NODE:
        problems.append(
            Problem(f"{program} cannot run on several nodes", "--nodes", "remove --nodes")
        )
    if program == "serve":
        message = "a server cannot run as a scheduled job: it needs a port and does not end"
        problems.append(Problem(message, program, "run ./inv serve on the node, or use Compose"))
    if plan.outputs:
        problems.append(
            Problem(
                "a scheduled job cannot write its output to the workspace's root",
                plan.outputs[0],
                f"--output runs/{plan.outputs[0]}",
            )
        )
    if plan.request and plan.request.reads_standard_input:
        problems.append(
            Problem(
                "a scheduled job has no standard input",
                plan.job,
                "pass the input as a file in the workspace: --input FILE",
            )
        )
    return problems


def _without_rendezvous(argv: Sequence[str]) -> tuple[str, ...]:
    """Return a command line without the options for the rendezvous; a script's own stay."""
    if argv[0] not in _MULTI_NODE:
        return tuple(argv)
    words: list[str] = []
    rest = list(argv)
    while rest and not rest[0].endswith(".py"):
        word = rest.pop(0)
        option, equals, _ = word.partition("=")
        if option not in _RENDEZVOUS:
            words.append(word)
        elif not equals and rest:
            rest.pop(0)
    return (*words, *rest)


def render(template: str, **values: Any) -> str:
    """Render a template in ``configs/cluster/``."""
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
    """Return a value as JSON that is also valid YAML.

    YAML allows no unprintable characters, and does not combine JSON's surrogate pairs.
    """
    if isinstance(value, Mapping):
        value = dict(value)
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in text)

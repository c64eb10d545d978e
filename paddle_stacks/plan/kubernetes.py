"""A plan as documents for Kubernetes: a Job or a PaddleJob, and what goes with it.

What they look like is in ``configs/cluster/kubernetes.yaml.j2`` and ``pod.yaml.j2``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from paddle_stacks.errors import Problem, RequestError, suggest
from paddle_stacks.plan import cluster
from paddle_stacks.plan.backend import Backend
from paddle_stacks.plan.make import PLAIN_ENVIRONMENT, WORKSPACE, Mount, Plan
from paddle_stacks.plan.mounts import FOLDERS
from paddle_stacks.settings import without_password

__all__ = ["OPERATORS", "RUN_LABEL", "Placement", "as_kubernetes"]

OPERATORS = ("paddlejob", "none")
"""What can run a job on several nodes: the Training Operator, or Kubernetes alone."""

RUN_LABEL = "paddle-stacks.run"
"""The label that all of a job's objects have, with the job's name as its value."""

_HAMI = "hami"
# HAMi's plugin takes this folder of the node's into a container by itself
# (Project-HAMi/dcu-vgpu-device-plugin), and gives a share of a card unless all of its
# compute units are asked for (HAMi, pkg/device/hygon/device.go: exclusive at 100).
_HAMI_FOLDERS = frozenset({"/opt/hyhal"})
_HAMI_WHOLE_CARD = {"hygon.com/dcucores": 100}

# Who a job is where its owner is root, whom the "restricted" standard does not let in.
_NOBODY_ELSE = "1000:1000"

_NO_NEW_PRIVILEGES = "no-new-privileges"
_NO_SECCOMP = "seccomp=unconfined"

# A name in Kubernetes: RFC 1123 with dots, or one label of it.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Placement:
    """Where in a cluster a job runs, and as what.

    Args:
        claim: the PersistentVolumeClaim that is the workspace.
        namespace: where the objects are; empty for that of whoever submits them.
        queue: the queue of Volcano, which then starts all pods or none; empty for the
            cluster's own scheduler.
        priority: the PriorityClass; empty for the namespace's usual one.
        resources: whose names cards have, a key of the backend's ``kubernetes_resources``.
        operator: what runs a job on several nodes, one of :data:`OPERATORS`; empty for what
            the cluster has, or paddlejob where it is not asked.
        user: ``uid:gid`` by number, who owns the claim's files; empty for the plan's, and
            1000:1000 where that is root.
    """

    claim: str = "workspace"
    namespace: str = ""
    queue: str = ""
    priority: str = ""
    resources: str = "hygon"
    operator: str = ""
    user: str = ""


_USUAL = Placement()


def as_kubernetes(
    plan: Plan,
    backend: Backend,
    nodes: int = 1,
    *,
    hours: int = cluster.HOURS,
    placement: Placement = _USUAL,
) -> str:
    """Return YAML for ``kubectl create``, the job itself first.

    It is a Job for one node, and a PaddleJob or an Indexed Job for several.

    Args:
        plan: what to run.
        backend: the platform that it was made for.
        nodes: how many.
        hours: after which the job is ended.
        placement: where in the cluster.

    Raises:
        RequestError: the plan cannot be run so; all reasons at once.
    """
    problems = [*cluster.problems_of(plan, nodes, hours), *_problems(plan, backend, placement)]
    if problems:
        raise RequestError(problems)
    own = cluster.on_a_node(plan, backend, nodes)
    uid, gid = _ids(_user(plan, backend, placement))
    # A job on several nodes talks to itself, in the pods' own network.
    host_network = backend.network == "host"
    closed = nodes > 1 or plan.network == "none"
    return cluster.render(
        "kubernetes.yaml.j2",
        title=cluster.title(plan, nodes),
        name=plan.name,
        labels={**plan.labels, RUN_LABEL: plan.name},
        run_label=RUN_LABEL,
        nodes=nodes,
        hours=hours,
        place=placement,
        indexed=nodes > 1 and placement.operator == "none",
        image=plan.image,
        pull="IfNotPresent" if cluster.has_registry(plan.image) else "Never",
        argv=[_literal(word) for word in own.argv],
        environment={
            name: _literal(value)
            for name, value in own.environment.items()
            if name not in PLAIN_ENVIRONMENT
        },
        uid=uid,
        gid=gid,
        groups=[int(group) for group in plan.groups],
        host_network=host_network,
        policy=closed and not host_network,
        ipc=plan.ipc,
        limits=_limits(plan, backend, placement),
        devices=[device.target for device in plan.devices],
        folders=_folders(plan, placement),
        parts=_parts(plan),
        shm_mib=plan.shm_mib,
        tmp_mib=plan.tmp_mib,
        ulimits=plan.ulimits,
        grace_seconds=plan.grace_seconds,
        privileged=plan.privileged,
        escalation=_NO_NEW_PRIVILEGES not in plan.security_opt,
        seccomp="Unconfined" if _NO_SECCOMP in plan.security_opt else "RuntimeDefault",
        read_only=plan.read_only,
        cap_add=plan.cap_add,
        cap_drop=plan.cap_drop,
    )


def _limits(plan: Plan, backend: Backend, placement: Placement) -> Mapping[str, int]:
    """Return what of the node's the container gets: its cards."""
    resource = backend.kubernetes_resources.get(placement.resources)
    if resource is None:
        return {}
    whole = _HAMI_WHOLE_CARD if placement.resources == _HAMI else {}
    return {resource: cluster.cards(plan), **whole}


def _folders(plan: Plan, placement: Placement) -> list[Mount]:
    """Return the node's folders that are mounted, besides what the plugin brings along."""
    brought = _HAMI_FOLDERS if placement.resources == _HAMI else frozenset()
    return [
        mount
        for mount in plan.mounts
        if not PurePosixPath(mount.target).is_relative_to(WORKSPACE) and mount.target not in brought
    ]


@dataclass(frozen=True)
class _Part:
    """A part of the claim that the container sees.

    Args:
        target: the path in the container.
        path: the path in the claim.
        read_only: whether the container may not write to it.
        made: whether it is a folder that has to be there: the node would make it as root.
    """

    target: str
    path: str
    read_only: bool
    made: bool


def _parts(plan: Plan) -> list[_Part]:
    """Return what of the claim the container sees: never the workspace itself.

    A folder that is a link on this machine has its own name in the claim.
    """
    found = []
    for mount in plan.mounts:
        target = PurePosixPath(mount.target)
        if not target.is_relative_to(WORKSPACE):
            continue
        inner = str(target.relative_to(WORKSPACE))
        path = os.path.relpath(mount.source, plan.workspace) if inner == "." else inner
        made = inner in FOLDERS or not mount.read_only
        found.append(_Part(mount.target, path, mount.read_only, made))
    return found


def _user(plan: Plan, backend: Backend, placement: Placement) -> str:
    """Return who the job is: root only where the backend's profile has it so."""
    if placement.user or backend.user:
        return placement.user or backend.user
    return _NOBODY_ELSE if _ids(plan.user)[0] == 0 else plan.user


def _ids(user: str) -> tuple[int, int]:
    if user == "root":
        return 0, 0
    uid, _, gid = user.partition(":")
    return int(uid), int(gid or 0)


def _problems(plan: Plan, backend: Backend, placement: Placement) -> list[Problem]:
    return [
        *_problems_of_plan(plan),
        *_problems_of_names(placement),
        *_problems_of_choices(backend, placement),
    ]


def _problems_of_plan(plan: Plan) -> list[Problem]:
    found = []
    names = [group for group in plan.groups if not group.isdecimal()]
    if names:
        found.append(
            Problem(
                f"Kubernetes takes a group by its number only, not {', '.join(names)}",
                "--groups",
                "name those of a node: stat -c %g /dev/kfd /dev/dri/* | sort -un | paste -sd, -",
            )
        )
    if plan.user != "root" and not _is_numeric(plan.user):
        what = f"Kubernetes takes a user by number only, not {plan.user}"
        found.append(Problem(what, f"profile {plan.profile}", "--user UID:GID"))
    hidden = [name for name, v in plan.environment.items() if without_password(v) != v]
    if plan.secrets or hidden:
        what = ", ".join([*(secret.name for secret in plan.secrets), *hidden])
        found.append(
            Problem(
                f"a document for Kubernetes would hold what is secret, or lack it: {what}",
                plan.job,
                f"run {plan.job} where the workspace's volume is mounted, with ./inv",
            )
        )
    return found


def _problems_of_names(placement: Placement) -> list[Problem]:
    wanted = (
        ("claim", "a PersistentVolumeClaim", _NAME),
        ("namespace", "a namespace", _LABEL),
        ("queue", "a queue of Volcano", _NAME),
        ("priority", "a PriorityClass", _NAME),
    )
    found = []
    for option, kind, form in wanted:
        name = getattr(placement, option)
        if (name or option == "claim") and not form.fullmatch(name):
            signs = (
                "small letters, digits, - and ." if form is _NAME else "small letters, digits, -"
            )
            found.append(Problem(f'"{name}" cannot be the name of {kind}', f"--{option}", signs))
    return found


def _problems_of_choices(backend: Backend, placement: Placement) -> list[Problem]:
    found = []
    plugins = backend.kubernetes_resources
    if plugins and placement.resources not in plugins:
        what = f'nobody\'s names of cards are called "{placement.resources}"'
        remedy = suggest(placement.resources, plugins, "resources")
        found.append(Problem(what, "--resources", remedy))
    if placement.operator and placement.operator not in OPERATORS:
        what = f'no operator is called "{placement.operator}"'
        remedy = suggest(placement.operator, OPERATORS, "operators")
        found.append(Problem(what, "--operator", remedy))
    if placement.user and not _is_numeric(placement.user):
        what = f'"{placement.user}" is not a user by number'
        found.append(Problem(what, "--user", "UID:GID, for instance --user 1000:1000"))
    return found


def _is_numeric(user: str) -> bool:
    return re.fullmatch(r"\d+(:\d+)?", user) is not None


def _literal(text: str) -> str:
    """Return what Kubernetes, which expands ``$(NAME)``, makes the text of again."""
    return text.replace("$", "$$")

"""Render a plan as Kubernetes documents: a Job or a PaddleJob and its dependents.

The templates are ``configs/cluster/kubernetes.yaml.j2`` and ``pod.yaml.j2``.
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
"""The controllers for jobs on several nodes: the Training Operator, or none (Indexed Job)."""

RUN_LABEL = "paddle-stacks.run"
"""The label of all objects of a job; its value is the job's name."""

_HAMI = "hami"
# HAMi's plugin mounts this folder of the node by itself
# (Project-HAMi/dcu-vgpu-device-plugin), and allocates a share of a device unless all of its
# compute units are requested (HAMi, pkg/device/hygon/device.go: exclusive at 100).
_HAMI_FOLDERS = frozenset({"/opt/hyhal"})
_HAMI_WHOLE_CARD = {"hygon.com/dcucores": 100}

# The user of a job whose owner is root, which the "restricted" standard forbids.
_NON_ROOT = "1000:1000"

_NO_NEW_PRIVILEGES = "no-new-privileges"
_NO_SECCOMP = "seccomp=unconfined"

# Names in Kubernetes: an RFC 1123 subdomain, and an RFC 1123 label.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Placement:
    """Cluster-specific settings of a job.

    Args:
        claim: the PersistentVolumeClaim with the workspace.
        namespace: the objects' namespace; empty for the submitter's.
        queue: a queue of Volcano, which starts all pods or none; empty for the cluster's
            default scheduler.
        priority: the PriorityClass; empty for the namespace's default.
        resources: the device plugin, a key of the backend's ``kubernetes_resources``.
        operator: the controller for several nodes, one of :data:`OPERATORS`; empty for the
            one that the cluster has, or paddlejob if the cluster cannot be queried.
        user: numeric ``uid:gid`` of the owner of the claim's files; empty for the plan's,
            or 1000:1000 if that is root.
    """

    claim: str = "workspace"
    namespace: str = ""
    queue: str = ""
    priority: str = ""
    resources: str = "hygon"
    operator: str = ""
    user: str = ""


_DEFAULT_PLACEMENT = Placement()


def as_kubernetes(
    plan: Plan,
    backend: Backend,
    nodes: int = 1,
    *,
    hours: int = cluster.HOURS,
    placement: Placement = _DEFAULT_PLACEMENT,
) -> str:
    """Return YAML for ``kubectl create``, the job first.

    One node gives a Job, several give a PaddleJob or an Indexed Job.

    Args:
        plan: the plan.
        backend: its backend.
        nodes: number of nodes.
        hours: time limit.
        placement: the cluster-specific settings.

    Raises:
        RequestError: Kubernetes cannot run the plan. Reports all reasons at once.
    """
    problems = [*cluster.problems(plan, nodes, hours), *_problems(plan, backend, placement)]
    if problems:
        raise RequestError(problems)
    node_plan = cluster.node_plan(plan, backend, nodes)
    uid, gid = _ids(_user(plan, backend, placement))
    # The pods of a job on several nodes communicate over the pod network.
    host_network = backend.network == "host"
    isolated = nodes > 1 or plan.network == "none"
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
        argv=[_literal(word) for word in node_plan.argv],
        environment={
            name: _literal(value)
            for name, value in node_plan.environment.items()
            if name not in PLAIN_ENVIRONMENT
        },
        uid=uid,
        gid=gid,
        groups=[int(group) for group in plan.groups],
        host_network=host_network,
        policy=isolated and not host_network,
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
    """Return the container's resource limits: its devices."""
    resource = backend.kubernetes_resources.get(placement.resources)
    if resource is None:
        return {}
    whole = _HAMI_WHOLE_CARD if placement.resources == _HAMI else {}
    return {resource: cluster.device_count(plan), **whole}


def _folders(plan: Plan, placement: Placement) -> list[Mount]:
    """Return the node's folders to mount, without those that the device plugin mounts."""
    provided = _HAMI_FOLDERS if placement.resources == _HAMI else frozenset()
    return [
        mount
        for mount in plan.mounts
        if not PurePosixPath(mount.target).is_relative_to(WORKSPACE)
        and mount.target not in provided
    ]


@dataclass(frozen=True)
class _Part:
    """A part of the claim that is mounted into the container.

    Args:
        target: path in the container.
        path: path in the claim.
        read_only: whether it is mounted read-only.
        create: whether to create it as a folder first; the node would create it as root.
    """

    target: str
    path: str
    read_only: bool
    create: bool


def _parts(plan: Plan) -> list[_Part]:
    """Return the parts of the claim to mount: never the workspace itself.

    A folder that is a link on this machine is a plain folder in the claim.
    """
    parts = []
    for mount in plan.mounts:
        target = PurePosixPath(mount.target)
        if not target.is_relative_to(WORKSPACE):
            continue
        relative = str(target.relative_to(WORKSPACE))
        path = os.path.relpath(mount.source, plan.workspace) if relative == "." else relative
        create = relative in FOLDERS or not mount.read_only
        parts.append(_Part(mount.target, path, mount.read_only, create))
    return parts


def _user(plan: Plan, backend: Backend, placement: Placement) -> str:
    """Return the container's user: root only if the backend's profile says so."""
    if placement.user or backend.user:
        return placement.user or backend.user
    return _NON_ROOT if _ids(plan.user)[0] == 0 else plan.user


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
    problems = []
    names = [group for group in plan.groups if not group.isdecimal()]
    if names:
        problems.append(
            Problem(
                f"Kubernetes requires numeric groups, got {', '.join(names)}",
                "--groups",
                "use a node's: stat -c %g /dev/kfd /dev/dri/* | sort -un | paste -sd, -",
            )
        )
    if plan.user != "root" and not _is_numeric(plan.user):
        message = f"Kubernetes requires a numeric user, got {plan.user}"
        problems.append(Problem(message, f"profile {plan.profile}", "--user UID:GID"))
    hidden = [name for name, v in plan.environment.items() if without_password(v) != v]
    if plan.secrets or hidden:
        secrets = ", ".join([*(secret.name for secret in plan.secrets), *hidden])
        problems.append(
            Problem(
                f"secrets cannot be passed in a Kubernetes document: {secrets}",
                plan.job,
                f"run ./inv {plan.job} on a machine that mounts the workspace's volume",
            )
        )
    return problems


def _problems_of_names(placement: Placement) -> list[Problem]:
    fields = (
        ("claim", "a PersistentVolumeClaim", _NAME),
        ("namespace", "a namespace", _LABEL),
        ("queue", "a queue of Volcano", _NAME),
        ("priority", "a PriorityClass", _NAME),
    )
    problems = []
    for option, kind, form in fields:
        name = getattr(placement, option)
        if (name or option == "claim") and not form.fullmatch(name):
            remedy = "use lower-case letters, digits and hyphens"
            remedy += " (dots are allowed too)" if form is _NAME else ""
            message = f'"{name}" is not a valid name for {kind}'
            problems.append(Problem(message, f"--{option}", remedy))
    return problems


def _problems_of_choices(backend: Backend, placement: Placement) -> list[Problem]:
    problems = []
    plugins = backend.kubernetes_resources
    if plugins and placement.resources not in plugins:
        message = f'unknown device plugin "{placement.resources}"'
        remedy = suggest(placement.resources, plugins, "resources")
        problems.append(Problem(message, "--resources", remedy))
    if placement.operator and placement.operator not in OPERATORS:
        message = f'unknown operator "{placement.operator}"'
        remedy = suggest(placement.operator, OPERATORS, "operators")
        problems.append(Problem(message, "--operator", remedy))
    if placement.user and not _is_numeric(placement.user):
        message = f'expected a numeric UID:GID, got "{placement.user}"'
        problems.append(Problem(message, "--user", "--user 1000:1000"))
    return problems


def _is_numeric(user: str) -> bool:
    return re.fullmatch(r"\d+(:\d+)?", user) is not None


def _literal(text: str) -> str:
    """Escape a text so that Kubernetes does not expand ``$(NAME)`` in it."""
    return text.replace("$", "$$")

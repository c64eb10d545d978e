"""Render a plan as a script for ``sbatch`` that runs the container on every node.

The templates are ``configs/cluster/slurm.sh.j2`` and the two files that it includes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import Problem, RequestError, suggest
from paddle_stacks.plan import cluster
from paddle_stacks.plan.backend import Backend
from paddle_stacks.plan.make import PLAIN_ENVIRONMENT, WORKSPACE, Plan
from paddle_stacks.plan.mounts import to_make
from paddle_stacks.plan.show import docker_arguments, mount_option
from paddle_stacks.settings import without_password

__all__ = ["ENGINES", "LOG", "NODE_LOG", "STATUS", "Container", "as_slurm"]

ENGINES = ("docker", "apptainer")
"""The container engines on a node; Apptainer includes Singularity."""

# Files in the job's folder; {id} is the Slurm job id.
LOG = "slurm-{id}.log"
"""The log of the script and of Slurm."""
NODE_LOG = "slurm-{id}-{node}.log"
"""The log of the container on a node."""
STATUS = "slurm-{id}.status"
"""The exit status of a job that ended by itself."""

# bash's ulimit options for a backend's limits.
_LIMITS = {"core": "c", "memlock": "l", "nofile": "n", "nproc": "u", "stack": "s"}


@dataclass(frozen=True)
class Container:
    """The container engine of the nodes, and the source of the image.

    Args:
        engine: one of :data:`ENGINES`.
        archive: path of the image's file on the nodes: output of ``docker save`` for
            Docker, a SIF for Apptainer; None if the nodes or a registry have the image.
    """

    engine: str = "docker"
    archive: Path | None = None

    def problems(self) -> list[Problem]:
        """Return the problems of the engine and the archive."""
        if self.engine not in ENGINES:
            remedy = suggest(self.engine, ENGINES, "engines")
            return [Problem(f'unknown container engine "{self.engine}"', "--container", remedy)]
        if self.archive is None:
            if self.engine == "docker":
                return []
            message = "--image-file is required with Apptainer"
            remedy = (
                "--image-file X.sif; docker save IMAGE > X.tar, and on a machine with Apptainer "
                "apptainer build X.sif docker-archive:X.tar"
            )
            return [Problem(message, "--image-file", remedy)]
        kinds = (".tar", ".tar.gz", ".tgz") if self.engine == "docker" else (".sif",)
        if not self.archive.name.endswith(kinds):
            remedy = (
                "docker save IMAGE > X.tar"
                if self.engine == "docker"
                else f"apptainer build X.sif docker-archive:{self.archive.name}"
            )
            message = f"{self.engine} requires {' or '.join(kinds)}, got {self.archive.name}"
            return [Problem(message, "--image-file", remedy)]
        return []


_DOCKER = Container()


def as_slurm(
    plan: Plan,
    backend: Backend,
    nodes: int = 1,
    *,
    hours: int = cluster.HOURS,
    folder: Path = Path("runs", "cluster"),
    container: Container = _DOCKER,
) -> str:
    """Return a script for ``sbatch`` that runs the plan's container on every node.

    Facts about a node are looked up there when the job starts: the groups of its device
    nodes, optional device nodes, and the devices that Slurm allocated.

    Args:
        plan: the plan.
        backend: its backend.
        nodes: number of nodes.
        hours: time limit.
        folder: folder of the nodes' logs and the job's exit status, below the workspace.
        container: the nodes' container engine and the source of the image.

    Raises:
        RequestError: Slurm cannot run the plan. Reports all reasons at once.
    """
    workspace = str(plan.workspace)
    problems = cluster.problems(plan, nodes, hours) + container.problems()
    if re.search(r"[\\\x00-\x1f\x7f]", workspace):
        message = "sbatch allows no backslash and no control character in the path of a log"
        problems.append(Problem(message, workspace, "rename the workspace"))
    if container.engine == "apptainer":
        problems += _apptainer_problems(plan)
    if problems:
        raise RequestError(problems)
    node_plan = cluster.node_plan(plan, backend, nodes)
    run_folder = plan.workspace / folder
    node_log = str(run_folder).replace("%", "%%") + "/" + NODE_LOG.format(id="%j", node="%n")
    values = {
        "title": cluster.title(plan, nodes),
        # The script appends the Slurm job id, which makes the container's name unique.
        "name": f"paddle-stacks-{plan.job}",
        "nodes": nodes,
        "hours": hours,
        "gres": backend.slurm_gres,
        "cards": cluster.device_count(plan),
        "card_variable": backend.card_variable,
        "grace_seconds": plan.grace_seconds,
        "log": shlex.quote(f"{workspace.replace('%', '%%')}/%x-%j.log"),
        "folder": shlex.quote(str(run_folder)),
        "sources": shlex.join(to_make(plan.mounts, plan.workspace)),
        "node_log": shlex.quote(node_log),
        "status": STATUS.format(id="$SLURM_JOB_ID"),
        "engine": container.engine,
        "archive": shlex.quote(str(container.archive)) if container.archive else "",
    }
    optional = (*backend.optional_devices, *(backend.node_devices if nodes > 1 else ()))
    for_engine = _for_docker if container.engine == "docker" else _for_apptainer
    return cluster.render("slurm.sh.j2", **values, **for_engine(node_plan, plan, backend, optional))


def _for_docker(
    node_plan: Plan, plan: Plan, backend: Backend, optional_devices: Sequence[str]
) -> dict[str, object]:
    """Return the values for the template of ``docker run``."""
    words = [group for group in docker_arguments(node_plan) if group[0] != "--name"]
    words.insert(1, ["--pull", "missing" if cluster.has_registry(plan.image) else "never"])
    optional = [(_beside(plan, path), path) for path in optional_devices]
    sources = [
        *(device.source for device in node_plan.devices),
        *(source for source, _ in optional),
    ]
    return {
        "reference": shlex.quote(plan.image),
        "optional": [tuple(map(shlex.quote, pair)) for pair in optional],
        "group_sources": [shlex.quote(path) for path in sources if backend.device_groups],
        "words": [shlex.join(group) for group in words],
    }


def _for_apptainer(
    node_plan: Plan, plan: Plan, backend: Backend, optional_devices: Sequence[str]
) -> dict[str, object]:
    """Return the values for the template of ``apptainer exec``.

    The options exist in Apptainer from 1.0 and Singularity from 3.8 (their ``--help``).
    ``--containall`` hides the host's files, devices, processes and environment except for
    what is listed. By default the root file system is read-only, and capabilities and
    set-user-id programs have no effect.
    """
    mounts = [
        *(mount_option(m.source, m.target, read_only=m.read_only) for m in node_plan.mounts),
        *(mount_option(s.source, s.target) for s in node_plan.secrets if s.source),
        *(mount_option(d.source, d.target, read_only=False) for d in node_plan.devices),
    ]
    environment = {k: v for k, v in node_plan.environment.items() if k not in PLAIN_ENVIRONMENT}
    words = [["--containall", "--cleanenv", "--no-home"]]
    # Loopback only, as with Docker.
    words += [["--net", "--network", "none"]] if node_plan.network == "none" else []
    words += [["--pwd", str(WORKSPACE)], *(["--mount", line] for line in mounts)]
    return {
        "optional": [shlex.quote(path) for path in optional_devices],
        "limits": [
            (_LIMITS[name], "unlimited" if number == -1 else number, name)
            for name, number in plan.ulimits.items()
        ],
        "variables": shlex.join(f"{name}={value}" for name, value in environment.items()),
        "words": [shlex.join(group) for group in words],
        "argv": shlex.join(node_plan.argv),
    }


def _apptainer_problems(plan: Plan) -> list[Problem]:
    problems = []
    if plan.profile:
        message = (
            f"--profile {plan.profile} is not possible with Apptainer: "
            "a container has only the caller's rights"
        )
        problems.append(Problem(message, "--container apptainer", "--container docker"))
    if any(device.source != device.target for device in plan.devices):
        message = "Apptainer cannot map a simulated host's devices to other paths"
        problems.append(Problem(message, "--container apptainer", "--container docker"))
    hidden = [name for name, v in plan.environment.items() if without_password(v) != v]
    written = [secret.name for secret in plan.secrets if secret.source is None]
    if hidden or written:
        secrets = ", ".join([*hidden, *written])
        message = f"secrets cannot be passed in a Slurm script: {secrets}"
        problems.append(Problem(message, plan.job, f"run ./inv {plan.job} on this machine"))
    unknown = sorted(set(plan.ulimits) - set(_LIMITS))
    if unknown:
        message = f"bash cannot set these limits: {', '.join(unknown)}"
        problems.append(Problem(message, f"backend {plan.backend}", "--container docker"))
    return problems


def _beside(plan: Plan, path: str) -> str:
    """Return the path of a device node of the plan's host, which may be simulated."""
    for device in plan.devices:
        if device.source.endswith(device.target):
            return device.source.removesuffix(device.target) + path
    return path

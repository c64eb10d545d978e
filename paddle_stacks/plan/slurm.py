"""A plan as a script for ``sbatch``: the container on every node, by Docker or by Apptainer.

What it looks like is in ``configs/cluster/slurm.sh.j2`` and the two files it includes.
"""

from __future__ import annotations

import re
import shlex
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
"""What can start containers on a node; Apptainer stands for Singularity too."""

# The names of what a job leaves in its folder; {id} is the number that Slurm gives.
LOG = "slurm-{id}.log"
"""What the script itself says, and Slurm of it."""
NODE_LOG = "slurm-{id}-{node}.log"
"""What the container on a node says."""
STATUS = "slurm-{id}.status"
"""The job's exit status, when it has ended by itself."""

# What bash's ulimit calls the limits that a backend can name.
_LIMITS = {"core": "c", "memlock": "l", "nofile": "n", "nproc": "u", "stack": "s"}


@dataclass(frozen=True)
class Container:
    """How a node comes by the container.

    Args:
        engine: one of :data:`ENGINES`.
        archive: the file that holds the image, as the nodes see it: for Docker what
            ``docker save`` wrote, for Apptainer a SIF; None: the image is on the nodes,
            or in a registry.
    """

    engine: str = "docker"
    archive: Path | None = None

    def problems(self) -> list[Problem]:
        """Return what is wrong with the choice itself."""
        if self.engine not in ENGINES:
            remedy = suggest(self.engine, ENGINES, "engines")
            return [Problem(f'no container engine is named "{self.engine}"', "--container", remedy)]
        if self.archive is None:
            if self.engine == "docker":
                return []
            what = "Apptainer runs an image from a file, and none is named"
            remedy = (
                "--image-file X.sif; docker save IMAGE > X.tar, and on a machine with Apptainer "
                "apptainer build X.sif docker-archive:X.tar"
            )
            return [Problem(what, "--image-file", remedy)]
        kinds = (".tar", ".tar.gz", ".tgz") if self.engine == "docker" else (".sif",)
        if not self.archive.name.endswith(kinds):
            remedy = (
                "docker save IMAGE > X.tar"
                if self.engine == "docker"
                else f"apptainer build X.sif docker-archive:{self.archive.name}"
            )
            what = f"{self.engine} takes {' or '.join(kinds)}, not {self.archive.name}"
            return [Problem(what, "--image-file", remedy)]
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

    What only a node knows is looked up there when the job starts: the groups of its
    device nodes, devices that not every driver has, and the cards that Slurm gave.

    Args:
        plan: what to run.
        backend: the platform that it was made for.
        nodes: how many.
        hours: after which Slurm ends the job.
        folder: where the nodes' logs and the job's exit status go, below the workspace.
        container: how the nodes come by it.

    Raises:
        RequestError: the plan cannot be run so; all reasons at once.
    """
    workspace = str(plan.workspace)
    problems = cluster.problems_of(plan, nodes, hours) + container.problems()
    if re.search(r"[\\\x00-\x1f\x7f]", workspace):
        what = "sbatch takes no backslash and no control character in the name of a log"
        problems.append(Problem(what, workspace, "rename the workspace"))
    if container.engine == "apptainer":
        problems += _apptainer_problems(plan)
    if problems:
        raise RequestError(problems)
    own = cluster.on_a_node(plan, backend, nodes)
    kept = plan.workspace / folder
    node_log = str(kept).replace("%", "%%") + "/" + NODE_LOG.format(id="%j", node="%n")
    several = {
        "title": cluster.title(plan, nodes),
        # The number that Slurm gives to the job is what makes a container's name unique.
        "name": f"paddle-stacks-{plan.job}",
        "nodes": nodes,
        "hours": hours,
        "gres": backend.slurm_gres,
        "cards": cluster.cards(plan),
        "card_variable": backend.card_variable,
        "grace_seconds": plan.grace_seconds,
        "log": shlex.quote(f"{workspace.replace('%', '%%')}/%x-%j.log"),
        "folder": shlex.quote(str(kept)),
        "sources": shlex.join(to_make(plan.mounts, plan.workspace)),
        "node_log": shlex.quote(node_log),
        "status": STATUS.format(id="$SLURM_JOB_ID"),
        "engine": container.engine,
        "archive": shlex.quote(str(container.archive)) if container.archive else "",
    }
    told = _for_docker if container.engine == "docker" else _for_apptainer
    return cluster.render("slurm.sh.j2", **several, **told(own, plan, backend))


def _for_docker(own: Plan, plan: Plan, backend: Backend) -> dict[str, object]:
    """Return what the template of ``docker run`` is told besides."""
    words = [group for group in docker_arguments(own) if group[0] != "--name"]
    words.insert(1, ["--pull", "missing" if cluster.has_registry(plan.image) else "never"])
    optional = [(_beside(plan, path), path) for path in backend.optional_devices]
    sources = [*(device.source for device in own.devices), *(source for source, _ in optional)]
    return {
        "reference": shlex.quote(plan.image),
        "optional": [tuple(map(shlex.quote, pair)) for pair in optional],
        "group_sources": [shlex.quote(path) for path in sources if backend.device_groups],
        "words": [shlex.join(group) for group in words],
    }


def _for_apptainer(own: Plan, plan: Plan, backend: Backend) -> dict[str, object]:
    """Return what the template of ``apptainer exec`` is told.

    The options are Apptainer's from 1.0 and Singularity's from 3.8 (their ``--help``).
    ``--containall`` leaves the container nothing of the host's files, devices, processes
    and environment but what is named; the root file system is read-only, capabilities
    and set-user-id programs have no effect, both by default.
    """
    mounts = [
        *(mount_option(m.source, m.target, read_only=m.read_only) for m in own.mounts),
        *(mount_option(s.source, s.target) for s in own.secrets if s.source),
        *(mount_option(d.source, d.target, read_only=False) for d in own.devices),
    ]
    environment = {k: v for k, v in own.environment.items() if k not in PLAIN_ENVIRONMENT}
    words = [["--containall", "--cleanenv", "--no-home"]]
    # Loopback alone, as Docker's.
    words += [["--net", "--network", "none"]] if own.network == "none" else []
    words += [["--pwd", str(WORKSPACE)], *(["--mount", line] for line in mounts)]
    return {
        "optional": [shlex.quote(path) for path in backend.optional_devices],
        "limits": [
            (_LIMITS[name], "unlimited" if number == -1 else number, name)
            for name, number in plan.ulimits.items()
        ],
        "variables": shlex.join(f"{name}={value}" for name, value in environment.items()),
        "words": [shlex.join(group) for group in words],
        "argv": shlex.join(own.argv),
    }


def _apptainer_problems(plan: Plan) -> list[Problem]:
    found = []
    if plan.profile:
        what = (
            f"Apptainer gives no rights that the caller does not have: no --profile {plan.profile}"
        )
        found.append(Problem(what, "--container apptainer", "--container docker"))
    if any(device.source != device.target for device in plan.devices):
        what = "Apptainer shows a device under its own name only, not a simulated host's"
        found.append(Problem(what, "--container apptainer", "--container docker"))
    hidden = [name for name, v in plan.environment.items() if without_password(v) != v]
    written = [secret.name for secret in plan.secrets if secret.source is None]
    if hidden or written:
        what = f"the script would hold what is secret: {', '.join([*hidden, *written])}"
        found.append(Problem(what, plan.job, f"run {plan.job} on this machine, with ./inv"))
    unknown = sorted(set(plan.ulimits) - set(_LIMITS))
    if unknown:
        what = f"bash cannot set the limit {', '.join(unknown)}"
        found.append(Problem(what, f"backend {plan.backend}", "--container docker"))
    return found


def _beside(plan: Plan, path: str) -> str:
    """Return where a node of the host is, which may be a simulated one."""
    for device in plan.devices:
        if device.source.endswith(device.target):
            return device.source.removesuffix(device.target) + path
    return path

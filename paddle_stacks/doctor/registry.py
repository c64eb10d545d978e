"""All checks, in the order of their dependencies."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

from paddle_stacks.doctor import devices, network, software, system
from paddle_stacks.doctor.finding import Check, Finding
from paddle_stacks.doctor.machine import Machine
from paddle_stacks.errors import Problem, StackError

__all__ = ["CHECKS", "checks_for", "examine", "preflight", "problems"]

_ALL = ("cpu", "dcu", "dcu-sim")
_DCU = ("dcu", "dcu-sim")

CHECKS: tuple[Check, ...] = (
    Check("engine", "Docker Engine and its version", _ALL, "error", software.engine),
    Check("buildx", "Docker's build plugin", _ALL, "error", software.buildx),
    Check("compose", "Compose v2", _ALL, "error", software.compose),
    Check("disk", "free disk space of the engine", _ALL, "error", software.disk),
    Check("architecture", "processor architecture", _ALL, "error", system.architecture),
    Check(
        "device-nodes",
        "`/dev/kfd`, `/dev/dri` and the nodes in it",
        _DCU,
        "error",
        devices.device_nodes,
    ),
    Check(
        "device-access",
        "groups and modes of the nodes, for users other than root",
        _DCU,
        "error",
        devices.device_access,
    ),
    Check("hyhal", "`/opt/hyhal`, the driver's user-space libraries", _DCU, "error", devices.hyhal),
    Check(
        "driver",
        "kernel module, `hycu` or `hydcu`, and its version",
        _DCU,
        "error",
        devices.driver_module,
    ),
    Check(
        "driver-dtk",
        "driver against the images' DTK, and DTK against Paddle's wheel",
        _DCU,
        "error",
        devices.driver_dtk,
    ),
    Check(
        "combinations",
        "wheels and DTKs that others ran with this driver and these cards",
        _DCU,
        "hint",
        devices.combinations,
    ),
    Check(
        "hy-smi",
        "whether `hy-smi` responds, and its output format",
        _DCU,
        "warning",
        devices.hy_smi,
    ),
    Check("cards-busy", "other users of the cards", _DCU, "warning", devices.cards_busy),
    Check(
        "card-memory",
        "size and free amount of the cards' memory",
        _DCU,
        "warning",
        devices.card_memory,
    ),
    Check(
        "card-type",
        "card architectures against those of the operators",
        _DCU,
        "error",
        devices.card_type,
    ),
    Check("shm", "`/dev/shm` against the machine's memory", _ALL, "hint", system.shm),
    Check("memlock", "limit on pinned memory", _ALL, "hint", system.memlock),
    Check("iommu", "`iommu=pt`, for RCCL", _DCU, "hint", system.iommu),
    Check(
        "numa-balancing",
        "NUMA balancing of the kernel, for RCCL",
        _DCU,
        "hint",
        system.numa_balancing,
    ),
    Check(
        "message-queues",
        "SysV queues that a killed predictor left behind",
        _DCU,
        "hint",
        system.message_queues,
    ),
    Check(
        "visible-devices",
        "empty `HIP_VISIBLE_DEVICES` or `CUDA_VISIBLE_DEVICES`",
        _DCU,
        "warning",
        system.visible_devices,
    ),
    Check(
        "adapters",
        "RDMA adapters for jobs on several nodes",
        _DCU,
        "hint",
        network.adapters,
    ),
    Check(
        "host-name",
        "addresses of this host's name and of `--nodes`",
        _DCU,
        "error",
        network.host_name,
    ),
    Check("proxies", "configured proxies", _ALL, "warning", network.proxies),
    Check("ca-bundle", "trusted certificates", _ALL, "error", network.ca_bundle),
    Check(
        "images",
        "whether the images are built, and their revision and locks",
        _ALL,
        "warning",
        software.images,
    ),
    Check(
        "image-libraries",
        "`ldd` of Paddle's library, in the image",
        _DCU,
        "error",
        software.image_libraries,
    ),
    Check("workspace", "write access and free disk space", _ALL, "error", system.workspace),
)
"""All checks; those of one backend: :func:`checks_for`."""

# Checks that are fast, start no container, and find what would stop a job on a DCU.
_BEFORE_A_JOB = ("device-nodes", "device-access", "hyhal", "driver-dtk", "card-type")
# Jobs that only write files.
_WITHOUT_DEVICES = ("fetch", "fetch-data")


def checks_for(backend: str) -> tuple[Check, ...]:
    """Return the checks of a backend."""
    return tuple(check for check in CHECKS if backend in check.backends)


def preflight(backend: str, job: str) -> tuple[Check, ...]:
    """Return the checks that run before a job."""
    if job in _WITHOUT_DEVICES:
        return ()
    return tuple(check for check in checks_for(backend) if check.name in _BEFORE_A_JOB)


def problems(machine: Machine, checks: Iterable[Check | str]) -> list[Problem]:
    """Return the errors that the checks find, as problems of a ``MachineError``.

    Args:
        machine: the machine to check.
        checks: as :func:`preflight` returns them, or their names.
    """
    by_name = {check.name: check for check in CHECKS}
    selected = [by_name[check] if isinstance(check, str) else check for check in checks]
    findings = [check.run(machine) for check in selected]
    return [
        Problem(finding.saw, f"./inv doctor: {finding.check}", finding.remedy)
        for finding in findings
        if finding.severity == "error"
    ]


def examine(machine: Machine, checks: Iterable[Check], *, fix: bool = False) -> Iterator[Finding]:
    """Run checks, one by one.

    Args:
        machine: the machine to check.
        checks: the checks to run.
        fix: whether to apply safe fixes; they are announced on standard error, and the
            finding is that of the check repeated afterwards.
    """
    for check in checks:
        finding = check.run(machine)
        if fix and finding.wrong and finding.fix:
            finding = _fixed(machine, check, finding)
            # A new copy, without cached facts, so that later checks see the fix.
            machine = replace(machine)
        yield finding


def _fixed(machine: Machine, check: Check, finding: Finding) -> Finding:
    if finding.fix is None:
        return finding
    print(f"{check.name}: {finding.fix.action}", file=sys.stderr)
    try:
        finding.fix.apply()
    except (StackError, OSError) as failure:
        message, remedy = str(failure), finding.remedy
        if isinstance(failure, StackError):
            message, remedy = failure.problems[0].what, failure.problems[0].remedy
        text = f"{finding.saw}; --fix failed to {finding.fix.action}: {message}"
        return replace(finding, saw=text, remedy=remedy, fix=None)
    return replace(check.run(replace(machine)), fixed=finding.fix.action)

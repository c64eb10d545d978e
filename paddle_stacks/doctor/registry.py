"""Every check there is, in the order in which one thing needs another."""

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
"""All checks; of one platform: :func:`checks_for`."""

# What is cheap, starts no container, and would end a job on a DCU.
_BEFORE_A_JOB = ("device-nodes", "device-access", "hyhal", "driver-dtk", "card-type")
# It only writes files.
_WITHOUT_CARDS = ("fetch",)


def checks_for(backend: str) -> tuple[Check, ...]:
    """Return the checks of a platform."""
    return tuple(check for check in CHECKS if backend in check.backends)


def preflight(backend: str, job: str) -> tuple[Check, ...]:
    """Return the checks that run before a job."""
    if job in _WITHOUT_CARDS:
        return ()
    return tuple(check for check in checks_for(backend) if check.name in _BEFORE_A_JOB)


def problems(machine: Machine, checks: Iterable[Check | str]) -> list[Problem]:
    """Return the errors that some checks find, as problems of a ``MachineError``.

    Args:
        machine: where to look.
        checks: as :func:`preflight` returns them, or their names.
    """
    named = {check.name: check for check in CHECKS}
    chosen = [named[check] if isinstance(check, str) else check for check in checks]
    findings = [check.run(machine) for check in chosen]
    return [
        Problem(found.saw, f"./inv doctor: {found.check}", found.remedy)
        for found in findings
        if found.severity == "error"
    ]


def examine(machine: Machine, checks: Iterable[Check], *, fix: bool = False) -> Iterator[Finding]:
    """Run checks, one by one.

    Args:
        machine: where to look.
        checks: which.
        fix: whether to do what is safe about what is found; standard error says
            what is done, and the finding is what the check sees after it.
    """
    for check in checks:
        found = check.run(machine)
        if fix and found.wrong and found.fix:
            found = _fixed(machine, check, found)
            # Later checks are to see what has been done.
            machine = replace(machine)
        yield found


def _fixed(machine: Machine, check: Check, found: Finding) -> Finding:
    if found.fix is None:
        return found
    print(f"{check.name}: {found.fix.says}", file=sys.stderr)
    try:
        found.fix.apply()
    except (StackError, OSError) as failure:
        message, remedy = str(failure), found.remedy
        if isinstance(failure, StackError):
            message, remedy = failure.problems[0].what, failure.problems[0].remedy
        said = f"{found.saw}; to {found.fix.says} failed: {message}"
        return replace(found, saw=said, remedy=remedy, fix=None)
    return replace(check.run(replace(machine)), fixed=found.fix.says)

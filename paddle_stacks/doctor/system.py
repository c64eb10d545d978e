"""Checks of the machine: processor, memory limits, kernel settings, workspace."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from pathlib import Path

from paddle_stacks import ownership
from paddle_stacks.dcu import host
from paddle_stacks.doctor.finding import Finding, Fix, error, hint, ok, skipped, warning
from paddle_stacks.doctor.machine import Machine, memory_mib

__all__ = [
    "architecture",
    "iommu",
    "memlock",
    "message_queues",
    "numa_balancing",
    "shm",
    "visible_devices",
    "workspace",
]

_GIB = 2**30
# Usual sizes for containers that train on several devices are 16 to 64 GiB.
_MIN_SHM_MIB = 16 * 1024
# Enough for an adapter, its checkpoints and a small model; jobs check the size of
# their model themselves.
_MIN_FREE = 4 * _GIB
_FOLDERS = ("models", "runs")
_VISIBLE = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


def architecture(machine: Machine) -> Finding:
    """Check that the processor is x86-64, the only one that Paddle has wheels for."""
    processor = platform.machine()
    if processor.lower() in ("x86_64", "amd64"):
        return ok(processor)
    return error(
        f"the processor is {processor}; this version's Paddle wheels are for x86_64 only",
        "use a machine with an x86-64 processor",
    )


def shm(machine: Machine) -> Finding:
    """Compare the containers' limit for ``/dev/shm`` with the machine's memory."""
    limit = machine.backend.shm_mib
    minimum = min(limit, _MIN_SHM_MIB)
    memory = memory_mib()
    summary = (
        f"a container's /dev/shm is limited to {limit / 1024:.0f} GiB, "
        f"the machine has {memory / 1024:.0f} GiB of memory"
    )
    if memory < minimum:
        return hint(
            f"{summary}, which /dev/shm uses",
            "run fewer processes: fewer devices, fewer dataloader_num_workers",
        )
    own = host.shm_mib(machine.root)
    if machine.backend.device_groups and own is not None and own < minimum:
        return hint(
            f"the host's own /dev/shm has {own / 1024:.1f} GiB, for jobs that share it (ipc host)",
            f"mount -o remount,size={minimum // 1024}G /dev/shm, or do not share it",
        )
    return ok(summary)


def memlock(machine: Machine) -> Finding:
    """Check that pinned memory is unlimited, as RCCL requires."""
    if machine.backend.ulimits.get("memlock") != -1:
        return ok("this backend's containers need no higher limit")
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if hard == resource.RLIM_INFINITY:
        return ok("unlimited")
    return hint(
        f"the limit on pinned memory is {hard / 2**20:.0f} MiB; the engine raises it for its "
        "containers if it can, a batch system passes it on",
        "in /etc/security/limits.d: * - memlock unlimited; for Slurm, LimitMEMLOCK=infinity "
        "in slurmd.service",
    )


def iommu(machine: Machine) -> Finding:
    """Check for ``iommu=pt`` on the kernel's command line."""
    text = machine.read("/proc/cmdline")
    if text is None:
        return skipped("/proc/cmdline cannot be read")
    if "iommu=pt" in text.split():
        return ok("iommu=pt")
    return hint(
        "the kernel was booted without iommu=pt: RCCL warns about it, and may hang between cards",
        "add iommu=pt to GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub (or "
        "grub2-mkconfig -o /boot/grub2/grub.cfg), and reboot",
    )


def numa_balancing(machine: Machine) -> Finding:
    """Check that automatic NUMA balancing is off."""
    text = machine.read("/proc/sys/kernel/numa_balancing")
    if text is None:
        return ok("the kernel has no automatic NUMA balancing")
    if text.strip() == "0":
        return ok("off")
    return hint(
        "automatic NUMA balancing is on: RCCL warns about it, and is slower",
        "sysctl kernel.numa_balancing=0; permanently: echo kernel.numa_balancing=0 > "
        "/etc/sysctl.d/90-numa.conf",
    )


def message_queues(machine: Machine) -> Finding:
    """Check for SysV queues with tokens that a killed predictor of PaddleNLP left behind.

    ``csrc/gpu/get_output.cc`` opens the queue of ``ftok("./", 1)``, so the highest byte of
    the key is 1.
    """
    text = machine.read("/proc/sysvipc/msg")
    if text is None:
        return ok("the kernel has no message queues")
    rows = [row.split() for row in text.splitlines()[1:]]
    left = [
        row[1]
        for row in rows
        if len(row) > 4 and int(row[0]) >> 24 & 0xFF == 1 and row[2] == "666" and int(row[4])
    ]
    if not left:
        return ok("none with tokens of a predictor")
    return hint(
        f"queues with tokens, possibly of a killed predictor: {', '.join(left)}; the next one with "
        "the host's IPC namespace in the same folder returns them as its own",
        "if no predictor is running (ipcs -q -p): " + "; ".join(f"ipcrm -q {n}" for n in left),
    )


def visible_devices(machine: Machine) -> Finding:
    """Check for variables of this shell that are empty, which hides all devices."""
    empty = [name for name in _VISIBLE if os.environ.get(name, "0").strip() == ""]
    if not empty:
        return ok("no variable of this shell hides the devices")
    return warning(
        f"{' and '.join(empty)} is empty: docker compose and programs outside of containers "
        "see no device",
        f"unset {' '.join(empty)}",
    )


def workspace(machine: Machine) -> Finding:
    """Check that jobs can write to the workspace, and its free space."""
    here = machine.settings.workspace
    user = ownership.run_as(here)
    folders = [here / name for name in _FOLDERS]
    existing = [folder for folder in folders if folder.is_dir()]
    missing = [folder for folder in folders if not folder.is_dir()]
    closed = [
        folder
        for folder in (*([here] if missing else []), *existing)
        if not ownership.may_write(folder, user)
    ]
    if closed:
        names = " ".join(map(str, closed))
        return error(
            f"jobs run as user {user}, who cannot write to {names}",
            f"sudo chown -R {user} {names}",
        )
    if files := [folder for folder in missing if folder.exists()]:
        return error(f"not a folder: {files[0]}", f"mv {files[0]} {files[0]}.bak")
    free = shutil.disk_usage(here).free
    summary = f"{here}: user {user} can write, {free / _GIB:.0f} GiB free"
    if free < _MIN_FREE:
        return warning(summary, "free some space, or set workspace to a folder on another disk")
    if missing:
        names = " or ".join(f"{folder.name}/" for folder in missing)
        fix = Fix(f"create {' and '.join(map(str, missing))}", lambda: _create(missing, user))
        return hint(f"{summary}; no {names} yet", "none required: jobs create them", fix)
    return ok(summary)


def _create(folders: list[Path], user: str) -> None:
    for folder in folders:
        folder.mkdir(exist_ok=True)
        ownership.hand_over(folder, user)

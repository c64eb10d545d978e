"""The checks of the machine itself: processor, memory limits, kernel settings, workspace."""

from __future__ import annotations

import platform
import resource
import shutil
from pathlib import Path

from paddle_stacks import ownership
from paddle_stacks.doctor.finding import Finding, Fix, error, hint, ok, skipped, warning
from paddle_stacks.doctor.machine import Machine, memory_mib

__all__ = ["architecture", "iommu", "memlock", "numa_balancing", "shm", "workspace"]

_GIB = 2**30
# What others give a container that trains on several cards: 16 to 64 GiB.
_LEAST_SHM_MIB = 16 * 1024
# Room for an adapter, its checkpoints and a small model; what more is needed the job
# knows when it knows the model.
_LEAST_FREE = 4 * _GIB
_FOLDERS = ("models", "runs")


def architecture(machine: Machine) -> Finding:
    """Look at the processor's architecture; there are wheels for x86-64 only."""
    found = platform.machine()
    if found.lower() in ("x86_64", "amd64"):
        return ok(found)
    return error(
        f"{found}: Paddle's wheels of this version are for x86_64 alone",
        "use a machine with an x86-64 processor",
    )


def shm(machine: Machine) -> Finding:
    """Compare what a container may put into ``/dev/shm`` with what the machine has."""
    limit = machine.backend.shm_mib
    least = min(limit, _LEAST_SHM_MIB)
    memory = memory_mib()
    said = f"a container's limit is {limit / 1024:.0f} GiB, the machine has {memory / 1024:.0f} GiB"
    if memory < least:
        return hint(
            f"{said} of memory, which is what /dev/shm is made of",
            "run fewer processes: fewer cards, fewer dataloader_num_workers",
        )
    if machine.backend.device_groups and (own := _own_shm()) < least:
        return hint(
            f"the host's own /dev/shm has {own / 1024:.1f} GiB, for jobs that share it (ipc host)",
            f"mount -o remount,size={least // 1024}G /dev/shm, or leave containers their own",
        )
    return ok(f"{said} of memory")


def memlock(machine: Machine) -> Finding:
    """Compare the limit on pinned memory with what RCCL needs."""
    if machine.backend.ulimits.get("memlock") != -1:
        return ok("this platform's containers do not ask for more than they get")
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if hard == resource.RLIM_INFINITY:
        return ok("unlimited")
    return hint(
        f"at most {hard / 2**20:.0f} MiB may be pinned here; the engine lifts that for its "
        "containers where it may, a batch system hands it on",
        "in /etc/security/limits.d: * - memlock unlimited; for Slurm, LimitMEMLOCK=infinity "
        "in slurmd.service",
    )


def iommu(machine: Machine) -> Finding:
    """Look for ``iommu=pt`` among the kernel's arguments."""
    text = machine.read("/proc/cmdline")
    if text is None:
        return skipped("/proc/cmdline cannot be read")
    if "iommu=pt" in text.split():
        return ok("iommu=pt")
    return hint(
        "the kernel was started without iommu=pt: RCCL warns of it, and may hang between cards",
        "add iommu=pt to GRUB_CMDLINE_LINUX in /etc/default/grub, make grub's configuration "
        "anew, restart",
    )


def numa_balancing(machine: Machine) -> Finding:
    """Look whether the kernel moves pages between the processors' memories."""
    text = machine.read("/proc/sys/kernel/numa_balancing")
    if text is None:
        return ok("the kernel has no automatic NUMA balancing")
    if text.strip() == "0":
        return ok("off")
    return hint(
        "the kernel balances pages between NUMA nodes: RCCL warns of it, and becomes slower",
        "sysctl kernel.numa_balancing=0; to keep it, a line in /etc/sysctl.d",
    )


def workspace(machine: Machine) -> Finding:
    """Tell whether jobs can write where they write, and whether there is room."""
    here = machine.settings.workspace
    user = ownership.run_as(here)
    folders = [here / name for name in _FOLDERS]
    there = [folder for folder in folders if folder.is_dir()]
    missing = [folder for folder in folders if not folder.is_dir()]
    closed = [
        folder
        for folder in (*([here] if missing else []), *there)
        if not ownership.may_write(folder, user)
    ]
    if closed:
        names = " ".join(map(str, closed))
        return error(
            f"user {user}, as whom jobs run, may not write to {names}",
            f"sudo chown -R {user} {names}",
        )
    if in_the_way := [folder for folder in missing if folder.exists()]:
        return error(f"not a folder: {in_the_way[0]}", "move the file away")
    free = shutil.disk_usage(here).free
    said = f"{here}: user {user} may write, {free / _GIB:.0f} GiB free"
    if free < _LEAST_FREE:
        return warning(said, "make room, or set workspace to a folder on another disk")
    if missing:
        names = " or ".join(f"{folder.name}/" for folder in missing)
        fix = Fix(f"make {' and '.join(map(str, missing))}", lambda: _make(missing, user))
        return hint(f"{said}; no {names} yet", "jobs make them when they need them", fix)
    return ok(said)


def _own_shm() -> int:
    """Return the size of the host's ``/dev/shm`` in MiB; 0 where there is none."""
    try:
        return shutil.disk_usage("/dev/shm").total // 2**20
    except OSError:
        return 0


def _make(folders: list[Path], user: str) -> None:
    for folder in folders:
        folder.mkdir(exist_ok=True)
        ownership.hand_over(folder, user)

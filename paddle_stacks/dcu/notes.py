"""Facts about a DCU host that slow a job down or make it fail, and do not prevent its start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from paddle_stacks.dcu import capability, host, wheels
from paddle_stacks.jobs.upstream import PREDICT
from paddle_stacks.plan.backend import Backend
from paddle_stacks.plan.make import Plan

__all__ = ["notes"]

# RCCL creates its rings in /dev/shm; jobs with up to four cards ran with the engine's default.
_FEW_CARDS = 4
_MIN_SHM_MIB = 16 * 1024


def notes(plan: Plan, backend: Backend, root: Path, *, nodes: int = 1) -> tuple[str, ...]:
    """Return a plan's warnings about its host, each with a remedy.

    Args:
        plan: a plan for DCUs; others have no warnings.
        backend: its backend.
        root: the folder that the host's paths are below.
        nodes: number of machines.
    """
    if not plan.devices or backend.device != "gpu":
        return ()
    return (
        *_cards_without_code(plan, root),
        *_many_cards(plan, root),
        *(_network(plan, root) if nodes > 1 else ()),
        *_shared_queues(plan),
    )


def _cards_without_code(plan: Plan, root: Path) -> Iterator[str]:
    wheel = wheels.current()
    for kind in capability.detect(root, plan.cards).types:
        if wheel and kind.architecture not in wheel.architectures:
            yield (
                f"{kind.name} is {kind.architecture}, and Paddle {wheel.version} has code for "
                f"{', '.join(wheel.architectures)} only: the job will be refused; use other cards"
            )


def _many_cards(plan: Plan, root: Path) -> Iterator[str]:
    """Yield what made RCCL fail with more than four cards (gpustack#2037)."""
    count = max(plan.ranks, len(plan.cards))
    if count <= _FEW_CARDS:
        return
    size = host.shm_mib(root) if plan.ipc == "host" else plan.shm_mib
    if size is not None and size < _MIN_SHM_MIB:
        remedy = "mount -o remount,size=16G /dev/shm" if plan.ipc == "host" else "raise shm_mib"
        yield (
            f"{count} processes with {size} MiB of /dev/shm: RCCL may fail with an unhandled "
            f"system error; {remedy}"
        )
    try:
        line = (root / "proc" / "cmdline").read_text(encoding="utf-8")
    except OSError:
        return
    if "iommu=pt" not in line.split():
        yield (
            f"{count} processes on a host without iommu=pt: RCCL may hang or fail; add it to the "
            "kernel command line and reboot"
        )


def _network(plan: Plan, root: Path) -> Iterator[str]:
    """Yield why several nodes would exchange gradients over TCP although they have an adapter."""
    names = host.adapters(root)
    if not names:
        return
    listed = ", ".join(names)
    if not any(device.target == "/dev/infiniband" for device in plan.devices):
        yield (
            f"the host has {listed}, but no /dev/infiniband: the nodes would use TCP; load the "
            "driver's module (modprobe ib_uverbs)"
        )
    elif plan.environment.get("NCCL_IB_DISABLE") == "1":
        yield f"NCCL_IB_DISABLE=1: the nodes would use TCP instead of {listed}; remove it"
    if names[0].startswith("shca") and plan.environment.get("NCCL_NET_PLUGIN") != "shca":
        yield (
            f"RCCL uses {listed} only through its plugin, TCP was 8.5 times slower: set "
            'NCCL_NET_PLUGIN = "shca" in [node_environment] of configs/backends/dcu.toml, if '
            "the image has librccl-net-shca.so or libnccl-net-shca.so"
        )


def _shared_queues(plan: Plan) -> Iterator[str]:
    """Yield a warning for upstream's predictor, whose tokens go through a SysV queue."""
    if plan.ipc == "host" and any(word.endswith(PREDICT) for word in plan.argv):
        yield (
            "the host's IPC namespace: a predictor of another container in the same folder, or "
            "one that was killed, can mix its tokens with this one's; check ipcs -q, remove a "
            "queue with ipcrm -q ID"
        )

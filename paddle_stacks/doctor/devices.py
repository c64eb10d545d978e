"""Checks of a DCU host: device nodes, user land, driver, cards.

All of them read below ``host_root`` and start no container, so they can run before
every job.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from paddle_stacks.dcu import cards, driver, host, smi, wheels
from paddle_stacks.dcu.smi import Card
from paddle_stacks.dcu.wheels import Wheel
from paddle_stacks.doctor.finding import Finding, error, hint, ok, skipped, warning
from paddle_stacks.doctor.machine import Machine
from paddle_stacks.errors import MachineError

__all__ = [
    "card_memory",
    "card_type",
    "cards_busy",
    "combinations",
    "device_access",
    "device_nodes",
    "driver_dtk",
    "driver_module",
    "hy_smi",
    "hyhal",
]

# The DTK of the Dockerfile's DTK_IMAGE; a test checks that they agree.
_DTK = "24.04.1"

_LOAD_DRIVER = (
    "load the driver (modprobe hycu, or hydcu before 6.3) and start its service "
    "(systemctl start hymgr); lspci -d 1d94: shows whether the cards are installed"
)
# Known tables of hy-smi, identified by their distinctive headings.
_FORMATS = (
    ({"GPU", "SCLK"}, "ROCm 4.0"),
    ({"DCU", "Fan"}, "DTK 23"),
    ({"DCU"}, "DTK 24.04"),
    ({"HCU", "Dec%"}, "DTK 25.04.2 and newer"),
    ({"HCU"}, "DTK 25.04"),
)
# With more memory in use, none of the documented models fits.
_FULL_PERCENT = 50.0
# Llama-2-13b in float16: 26 GB of weights (13e9 times 2 bytes), before any cache or gradient.
_MIN_MEMORY_MIB = 26_000


def device_nodes(machine: Machine) -> Finding:
    """Check that the device nodes that every container needs exist and are device nodes."""
    required = machine.backend.devices
    dcu = machine.host
    missing = [path for path in required if not dcu.node(path)]
    inside_dri = [node for node in dcu.nodes if node.path.startswith("/dev/dri/")]
    if "/dev/dri" in required and dcu.node("/dev/dri"):
        missing += [
            f"/dev/dri/{kind}*"
            for kind in ("card", "renderD")
            if not any(node.path.startswith(f"/dev/dri/{kind}") for node in inside_dri)
        ]
    if missing:
        remedy = _LOAD_DRIVER
        if machine.root == Path("/") and machine.backend.name == "dcu-sim":
            remedy = (
                "create a simulated host (./inv sim-host ok --output DIR) and set "
                "PADDLE_STACKS_HOST_ROOT=DIR"
            )
        return error(f"missing: {', '.join(missing)}", remedy)
    not_devices = [
        node.path
        for node in dcu.nodes
        if node.path not in host.FOLDERS and not stat.S_ISCHR(Path(node.source).stat().st_mode)
    ]
    if not_devices:
        message = f"not a device node: {', '.join(not_devices)}"
        return error(message, "delete the file, then reload the driver, which creates the nodes")
    existing = [path for path in (*required, *machine.backend.optional_devices) if dcu.node(path)]
    return ok(f"{', '.join(existing)}; {_count(inside_dri, 'renderD')} render nodes")


def device_access(machine: Machine) -> Finding:
    """Check that a non-root user in the nodes' groups can read and write them."""
    paths = (*machine.backend.devices, *machine.backend.optional_devices)
    nodes = [n for n in machine.host.nodes if n.path in paths or n.path.startswith("/dev/dri/")]
    nodes = [node for node in nodes if node.path != "/dev/dri"]
    if not nodes:
        return skipped("there are no device nodes")
    closed = [node for node in nodes if not _opens(node)]
    if closed:
        shown = ", ".join(f"{n.path} (group {n.gid}, mode {n.mode:04o})" for n in closed)
        first = closed[0].path
        # A udev rule, because the driver recreates the nodes and so undoes chmod.
        names = " ".join(dict.fromkeys(node.path.rpartition("/")[2] for node in closed))
        return error(
            f"a non-root user cannot open {shown}",
            f"now: chgrp render {first} && chmod 0660 {first}; "
            f"permanently: a udev rule for {names}: "
            f'KERNEL=="{_kernel_name(first)}", GROUP="render", MODE="0660"',
        )
    groups = machine.host.gids(paths)
    access = (
        f"accessible to groups {', '.join(map(str, groups))}" if groups else "accessible to all"
    )
    return ok(f"{len(nodes)} nodes: {access}")


def hyhal(machine: Machine) -> Finding:
    """Check that the driver's user land exists, which every container mounts from the host."""
    folder = machine.host.hyhal
    remedy = "install the DCU driver, which includes it; if it is elsewhere, create a link to it"
    if folder is None:
        linked = machine.root / host.HYHAL.lstrip("/")
        if linked.is_symlink():
            message = f"{host.HYHAL} is a broken link to {linked.readlink()}"
            return error(message, "fix the link, or reinstall the DCU driver")
        return error(f"{host.HYHAL} does not exist", remedy)
    if not any((Path(folder) / name).is_dir() for name in ("lib", "lib64")):
        return error(f"{host.HYHAL} has no libraries: neither lib nor lib64", remedy)
    shown = f"/{Path(folder).relative_to(machine.root)}"
    return ok(host.HYHAL if shown == host.HYHAL else f"{host.HYHAL}, a link to {shown}")


def driver_module(machine: Machine) -> Finding:
    """Check that a kernel module is loaded: hycu, then hydcu, then amdgpu."""
    loaded = machine.host.driver
    if loaded is None:
        paths = [f"/sys/module/{name}" for name in host.MODULES]
        return error(f"no driver is loaded: no version in {', '.join(paths)}", _LOAD_DRIVER)
    version = f"{loaded.module} {loaded.version}"
    if loaded.module == "amdgpu":
        return warning(
            f"{version}, a driver for AMD cards and for DCUs before 2022",
            "install a driver that configs/dcu/drivers.toml lists for the DTK of the images",
        )
    return ok(version)


def driver_dtk(machine: Machine) -> Finding:
    """Check that the driver, the images' DTK and Paddle's wheel are compatible."""
    from paddle_stacks.build.variables import paddle_version

    dtk = _dtk(machine)
    release = ".".join(dtk.split(".")[:2])
    version = paddle_version(machine.settings.root)
    wheel = wheels.find(version)
    if wheel and release not in wheel.dtk:
        compatible = ", ".join(wheel.dtk)
        return error(
            f"paddlepaddle-dcu {version} requires DTK {compatible} ({wheel.library}), "
            f"the images have DTK {dtk}",
            f"set dtk_image to an image with DTK {compatible}",
        )
    loaded = machine.host.driver
    if loaded is None:
        return skipped("no driver is loaded")
    if problem := driver.compatibility_problem(loaded, dtk, _known_names(machine)):
        # A series that the table does not cover may work: only a warning.
        series_in_table = {row.version.series for row in driver.rows()}
        series = ".".join(loaded.version.split("-")[0].split(".")[:2])
        report = error if series in series_in_table or not series[:1].isdigit() else warning
        return report(problem.what, problem.remedy)
    paddle = f"paddlepaddle-dcu {version}" if wheel else f"paddlepaddle-dcu {version} (unknown)"
    return ok(f"driver {loaded.version}, DTK {dtk}, {paddle}")


def hy_smi(machine: Machine) -> Finding:
    """Check that ``hy-smi`` works, and identify its output format."""
    detected = machine.cards
    if isinstance(detected, MachineError):
        problem = detected.problems[0]
        return warning(f"{problem.what} ({problem.where})", problem.remedy)
    message = f"{len(detected)} cards, {_format(machine)}"
    if _has_invalid_json(machine):
        message += "; its JSON is invalid: paddle-stacks can read it, other programs cannot"
    return ok(message)


def cards_busy(machine: Machine) -> Finding:
    """Check for cards in use: over 3 % of the memory, or 1 % of the compute units."""
    detected = machine.cards
    if isinstance(detected, MachineError):
        return skipped("hy-smi failed")
    busy = [card for card in detected if card.busy]
    if not busy:
        return ok(f"{len(detected)} cards are free")
    free = [card for card in detected if not card.busy]
    advice = f"use the free ones: --devices {_indices(free)}" if free else "no card is free"
    return warning(
        f"in use: {'; '.join(map(_use, busy))}", f"{advice}; ./inv top shows the processes"
    )


def card_memory(machine: Machine) -> Finding:
    """Check for cards that are full or too small for the documented models."""
    detected = machine.cards
    if isinstance(detected, MachineError):
        return skipped("hy-smi failed")
    full = [card for card in detected if (card.vram_share or 0) > _FULL_PERCENT]
    if full:
        return warning(
            f"full: {'; '.join(map(_use, full))}",
            "end the processes that use the memory (listed by ./inv top; a crashed job may have "
            "left some behind), or use other cards",
        )
    sizes = [card.vram_total_mib for card in detected if card.vram_total_mib is not None]
    if not sizes:
        return ok("hy-smi reports no sizes; no card is full")
    if min(sizes) < _MIN_MEMORY_MIB:
        return warning(
            f"the smallest card has {min(sizes) / 1024:.0f} GiB; the weights of Llama-2-13b "
            "in float16 need 24 GiB",
            "use several cards (tensor_parallel_degree), or a smaller model",
        )
    return ok(f"{_range(sizes)} GiB each, no card is full")


def card_type(machine: Machine) -> Finding:
    """Check that the operators are compiled for the cards, and show unsupported number formats."""
    detected = machine.cards
    if isinstance(detected, MachineError):
        return skipped("hy-smi failed")
    names = list(dict.fromkeys(card.name for card in detected if card.name))
    if not names:
        return skipped("hy-smi reports no card names")
    if unknown := [name for name in names if cards.find(name) is None]:
        return warning(
            f"unknown card: {', '.join(unknown)}",
            "look up its architecture (rocminfo | grep gfx), and add it to configs/dcu/cards.toml",
        )
    types = [kind for name in names if (kind := cards.find(name))]
    shown = ", ".join(f"{kind.name} ({kind.architecture})" for kind in types)
    # dcu-sim computes on the CPU, and its operators are compiled for Debian's compiler.
    compiled = machine.backend.architectures if machine.backend.device == "gpu" else ()
    wheel = wheels.current() if compiled else None
    if wheel and (
        without_code := [kind for kind in types if kind.architecture not in wheel.architectures]
    ):
        return error(
            f"{without_code[0].name} is {without_code[0].architecture}, and paddlepaddle-dcu "
            f"{wheel.version} has code for {', '.join(wheel.architectures)} only",
            "use a host with one of these cards, or a Paddle that was compiled for this one (see "
            "configs/dcu/combinations.toml)",
        )
    if unsupported := [k for k in types if compiled and k.architecture not in compiled]:
        missing = ", ".join(dict.fromkeys(kind.architecture for kind in unsupported))
        name = machine.backend.name
        return error(
            f"{shown}: the operators are compiled for {', '.join(compiled)}, not for {missing}",
            f"add {missing} to architectures in configs/backends/{name}.toml (if the DTK's "
            f"compiler supports it), then ./inv build --backend {name}",
        )
    if len(types) > 1:
        return warning(
            f"different card types: {shown}", "run each job on cards of one type: --devices"
        )
    return ok(f"{shown}{_missing_formats(wheel)}")


def combinations(machine: Machine) -> Finding:
    """List the wheels and DTKs that others ran with this driver and these cards."""
    loaded = machine.host.driver
    if loaded is None:
        return skipped("no driver is loaded")
    names = _known_names(machine)
    types = [kind for name in names if (kind := cards.find(name))]
    reports = wheels.matching(loaded, {kind.architecture for kind in types})
    works = "; ".join(str(each) for each in reports if each.works)
    fails = "; ".join(f"{each}: {each.result}" for each in reports if not each.works)
    fails = f"; reported to fail: {fails}" if fails else ""
    sources = "(configs/dcu/combinations.toml)"
    on = f"driver {loaded.version}{' with ' if names else ''}{', '.join(sorted(names))}"
    if not works:
        return hint(
            f"no combination of wheel and DTK is known to work with {on}{fails} {sources}",
            "install a driver for DTK 24.04.1 (6.2 series), or add what works for you to "
            "configs/dcu/combinations.toml",
        )
    return ok(f"others ran with {on}: {works}{fails} {sources}")


def _known_names(machine: Machine) -> set[str]:
    """Return the names of the host's cards that ``configs/dcu/cards.toml`` lists."""
    if isinstance(machine.cards, MachineError):
        return set()
    return {kind.name for card in machine.cards if (kind := cards.find(card.name or ""))}


def _opens(node: host.Node) -> bool:
    if node.mode & 0o006 == 0o006:
        return True
    # A container's user never gets root's group.
    return node.mode & 0o060 == 0o060 and node.gid != 0


def _kernel_name(path: str) -> str:
    return re.sub(r"\d+$", "*", path.rpartition("/")[2])


def _count(nodes: Iterable[host.Node], kind: str) -> int:
    return sum(node.path.startswith(f"/dev/dri/{kind}") for node in nodes)


def _dtk(machine: Machine) -> str:
    """Return the DTK of the images, from the tag of ``dtk_image``; else the Dockerfile's."""
    tag = re.search(r"dtk(\d+\.\d+(?:\.\d+)?)", machine.settings.dtk_image)
    return tag[1] if tag else _DTK


def _format(machine: Machine) -> str:
    """Return which release's table format ``hy-smi`` prints."""
    try:
        text = machine.run([_program(machine)])
    except MachineError:
        return "unlisted table format"
    words = next((w for w in map(str.split, text.splitlines()) if w[1:2] == ["Temp"]), [])
    for headings, release in _FORMATS:
        if headings <= set(words):
            return f"table format of {release}"
    return "unlisted table format"


def _has_invalid_json(machine: Machine) -> bool:
    arguments = ("--showproductname", "--showpower", "--json")
    try:
        text = machine.run([_program(machine), *arguments])
    except MachineError:
        return False
    try:
        json.loads(text)
    except ValueError:
        return text.lstrip().startswith("{")
    return False


def _program(machine: Machine) -> str:
    own = host.inside(machine.root, f"{host.HYHAL}/bin/hy-smi")
    return str(own) if machine.simulated or own.is_file() else "hy-smi"


def _use(card: Card) -> str:
    memory = f"{card.vram_share:.0f} % of its memory" if card.vram_share is not None else ""
    units = f"{card.use_percent:.0f} % of its compute units" if card.use_percent is not None else ""
    return f"card {card.index}: {', '.join(filter(None, (memory, units)))}"


def _indices(detected: Sequence[smi.Card]) -> str:
    return ",".join(str(card.index) for card in detected)


def _range(sizes: Sequence[int]) -> str:
    low, high = (f"{size / 1024:.0f}" for size in (min(sizes), max(sizes)))
    return low if low == high else f"{low} to {high}"


def _missing_formats(wheel: Wheel | None) -> str:
    if wheel is None or not wheel.no_dtypes:
        return ""
    formats = " and no ".join(wheel.no_dtypes)
    return f"; paddlepaddle-dcu {wheel.version} has no {formats}: use float16"

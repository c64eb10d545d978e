"""The checks of a DCU host: nodes, user land, driver, cards.

All of them look below ``host_root`` and start no container, so they can run before
every job.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from paddle_stacks import toml
from paddle_stacks.dcu import cards, driver, host, smi
from paddle_stacks.dcu.cards import CardType
from paddle_stacks.dcu.smi import Card
from paddle_stacks.doctor.finding import Finding, error, ok, skipped, warning
from paddle_stacks.doctor.machine import Machine
from paddle_stacks.errors import MachineError

__all__ = [
    "card_memory",
    "card_type",
    "cards_busy",
    "device_access",
    "device_nodes",
    "driver_dtk",
    "driver_module",
    "hy_smi",
    "hyhal",
]

# The DTK of the Dockerfile's DTK_IMAGE; a test holds the two together.
_DTK = "24.04.1"

_LOAD_DRIVER = (
    "load the driver (modprobe hycu, or hydcu before 6.3) and start its service "
    "(systemctl start hymgr); lspci -d 1d94: shows whether the cards are there at all"
)
# Seen: the tables that hy-smi prints, by the headings that only they have.
_FORMATS = (
    ({"GPU", "SCLK"}, "ROCm 4.0"),
    ({"DCU", "Fan"}, "DTK 23"),
    ({"DCU"}, "DTK 24.04"),
    ({"HCU", "Dec%"}, "DTK 25.04.2 and newer"),
    ({"HCU"}, "DTK 25.04"),
)
# Above this nothing of the documented models fits beside what is there.
_FULL_PERCENT = 50.0
# Llama-2-13b in float16: 26 GB of weights (13e9 times 2 bytes), before any cache or gradient.
_LEAST_MIB = 26_000


def device_nodes(machine: Machine) -> Finding:
    """Look for the nodes that every container gets, and what kind of file they are."""
    wanted = machine.backend.devices
    found = machine.host
    missing = [path for path in wanted if not found.node(path)]
    inside_dri = [node for node in found.nodes if node.path.startswith("/dev/dri/")]
    if "/dev/dri" in wanted and found.node("/dev/dri"):
        missing += [
            f"/dev/dri/{kind}*"
            for kind in ("card", "renderD")
            if not any(node.path.startswith(f"/dev/dri/{kind}") for node in inside_dri)
        ]
    if missing:
        remedy = _LOAD_DRIVER
        if machine.root == Path("/") and machine.backend.name == "dcu-sim":
            remedy = (
                "make a simulated host (./inv sim-host ok --output DIR) and set "
                "PADDLE_STACKS_HOST_ROOT to it"
            )
        return error(f"missing: {', '.join(missing)}", remedy)
    false = [
        node.path
        for node in found.nodes
        if node.path != "/dev/dri" and not stat.S_ISCHR(Path(node.source).stat().st_mode)
    ]
    if false:
        said = f"not a device node but another file: {', '.join(false)}"
        return error(said, "delete it, then load the driver anew, which makes the nodes")
    seen = [path for path in (*wanted, *machine.backend.optional_devices) if found.node(path)]
    return ok(f"{', '.join(seen)}; {_count(inside_dri, 'renderD')} render nodes")


def device_access(machine: Machine) -> Finding:
    """Tell whether a user who is not root, in the nodes' groups, can read and write them."""
    paths = (*machine.backend.devices, *machine.backend.optional_devices)
    nodes = [n for n in machine.host.nodes if n.path in paths or n.path.startswith("/dev/dri/")]
    nodes = [node for node in nodes if node.path != "/dev/dri"]
    if not nodes:
        return skipped("there are no device nodes")
    closed = [node for node in nodes if not _opens(node)]
    if closed:
        shown = ", ".join(f"{n.path} (group {n.gid}, mode {n.mode:04o})" for n in closed)
        first = closed[0].path
        # A rule, since what chmod does to a node is gone when the driver makes it again.
        names = " ".join(dict.fromkeys(node.path.rpartition("/")[2] for node in closed))
        return error(
            f"a user who is not root cannot open {shown}",
            f"now: chgrp render {first} && chmod 0660 {first}; for good, a udev rule for {names}: "
            f'KERNEL=="{_kernel_name(first)}", GROUP="render", MODE="0660"',
        )
    groups = machine.host.gids(paths)
    said = (
        f"groups {', '.join(map(str, groups))} open them" if groups else "everybody can open them"
    )
    return ok(f"{len(nodes)} nodes: {said}")


def hyhal(machine: Machine) -> Finding:
    """Look for the driver's user land, which every container must get from the host."""
    folder = machine.host.hyhal
    remedy = "install the DCU driver, which brings it; where it lies elsewhere, link to it"
    if folder is None:
        linked = machine.root / host.HYHAL.lstrip("/")
        if linked.is_symlink():
            said = f"{host.HYHAL} is a link that leads nowhere: {linked.readlink()}"
            return error(said, "mend the link, or install the DCU driver anew")
        return error(f"there is no {host.HYHAL}", remedy)
    if not any((Path(folder) / name).is_dir() for name in ("lib", "lib64")):
        return error(f"{host.HYHAL} has no libraries: neither lib nor lib64", remedy)
    shown = f"/{Path(folder).relative_to(machine.root)}"
    return ok(host.HYHAL if shown == host.HYHAL else f"{host.HYHAL}, a link to {shown}")


def driver_module(machine: Machine) -> Finding:
    """Look for the kernel module: hycu, then hydcu, then amdgpu."""
    found = machine.host.driver
    if found is None:
        named = [f"/sys/module/{name}" for name in host.MODULES]
        return error(f"no driver is loaded: no version in {', '.join(named)}", _LOAD_DRIVER)
    said = f"{found.module} {found.version}"
    if found.module == "amdgpu":
        return warning(
            f"{said}, which drives AMD's cards, or a DCU before 2022",
            "install a driver that configs/dcu/drivers.toml has for the DTK of the images",
        )
    return ok(said)


def driver_dtk(machine: Machine) -> Finding:
    """Compare driver, the images' DTK, and Paddle's wheel."""
    from paddle_stacks.build.variables import paddle_version

    dtk = _dtk(machine)
    release = ".".join(dtk.split(".")[:2])
    version = paddle_version(machine.settings.root)
    wheels = toml.read(machine.settings.root / "configs" / "dcu" / "wheels.toml")
    wheel = wheels.get(version)
    if wheel and release not in wheel["dtk"]:
        goes = ", ".join(wheel["dtk"])
        return error(
            f"paddlepaddle-dcu {version} needs DTK {goes} ({wheel['library']}), "
            f"the images have {dtk}",
            f"set dtk_image to an image with DTK {goes}",
        )
    found = machine.host.driver
    if found is None:
        return skipped("no driver is loaded")
    if problem := driver.compatibility_problem(found, dtk, _known_names(machine)):
        # Of a series that nobody has written about nobody knows that it fails.
        known = {row.version.series for row in driver.rows()}
        series = ".".join(found.version.split("-")[0].split(".")[:2])
        tell = error if series in known or not series[:1].isdigit() else warning
        return tell(problem.what, problem.remedy)
    paddle = f"paddlepaddle-dcu {version}" if wheel else f"paddlepaddle-dcu {version} (not known)"
    return ok(f"driver {found.version}, DTK {dtk}, {paddle}")


def hy_smi(machine: Machine) -> Finding:
    """Ask ``hy-smi`` for its table, and say which of the known ones it is."""
    found = machine.cards
    if isinstance(found, MachineError):
        problem = found.problems[0]
        return warning(f"{problem.what} ({problem.where})", problem.remedy)
    said = f"{len(found)} cards, {_format(machine)}"
    if _has_invalid_json(machine):
        said += "; its JSON is not JSON, which is understood here, but not by other programs"
    return ok(said)


def cards_busy(machine: Machine) -> Finding:
    """Tell which cards are in use: over 3 % of the memory, or 1 % of the units."""
    found = machine.cards
    if isinstance(found, MachineError):
        return skipped("hy-smi does not tell")
    busy = [card for card in found if card.busy]
    if not busy:
        return ok(f"{len(found)} cards are free")
    free = [card for card in found if not card.busy]
    instead = f"--devices {_indices(free)} runs on those that are free" if free else "none is free"
    return warning(
        f"in use: {'; '.join(map(_use, busy))}", f"{instead}; ./inv top shows who uses the others"
    )


def card_memory(machine: Machine) -> Finding:
    """Tell which cards are full or too small for the documented models."""
    found = machine.cards
    if isinstance(found, MachineError):
        return skipped("hy-smi does not tell")
    full = [card for card in found if (card.vram_share or 0) > _FULL_PERCENT]
    if full:
        return warning(
            f"full: {'; '.join(map(_use, full))}",
            "end what holds the memory (./inv top shows which processes; one that has ended "
            "badly may have left children), or use other cards",
        )
    sizes = [card.vram_total_mib for card in found if card.vram_total_mib is not None]
    if not sizes:
        return ok("hy-smi tells no sizes; none is full")
    if min(sizes) < _LEAST_MIB:
        return warning(
            f"the smallest card has {min(sizes) / 1024:.0f} GiB, and Llama-2-13b's weights alone "
            "take 24 in float16",
            "use several cards (tensor_parallel_degree), or a smaller model",
        )
    return ok(f"{_range(sizes)} GiB each, none is full")


def card_type(machine: Machine) -> Finding:
    """Compare the cards with what the operators are compiled for and can compute with."""
    found = machine.cards
    if isinstance(found, MachineError):
        return skipped("hy-smi does not tell")
    names = list(dict.fromkeys(card.name for card in found if card.name))
    if not names:
        return skipped("hy-smi tells no names")
    if unknown := [name for name in names if cards.find(name) is None]:
        return warning(
            f"not a card that is known here: {', '.join(unknown)}",
            "see which architecture it has (rocminfo | grep gfx), and add it to "
            "configs/dcu/cards.toml",
        )
    types = [kind for name in names if (kind := cards.find(name))]
    shown = ", ".join(f"{kind.name} ({kind.architecture})" for kind in types)
    # On a machine that computes with its CPU the operators are for Debian's compiler.
    compiled = machine.backend.architectures if machine.backend.device == "gpu" else ()
    if without := [k for k in types if compiled and k.architecture not in compiled]:
        wanted = ", ".join(dict.fromkeys(kind.architecture for kind in without))
        return error(
            f"{shown}: the operators are compiled for {', '.join(compiled)}, not for {wanted}",
            f"add {wanted} to architectures in configs/backends/{machine.backend.name}.toml, "
            "if the DTK's compiler knows it, and build again",
        )
    if len(types) > 1:
        return warning(
            f"cards of several kinds: {shown}", "run a job on cards of one kind: --devices"
        )
    return ok(f"{shown}{_formats_of(types)}")


def _known_names(machine: Machine) -> set[str]:
    """Return the names of the cards, as ``configs/dcu`` has them; of none that is not there."""
    if isinstance(machine.cards, MachineError):
        return set()
    return {kind.name for card in machine.cards if (kind := cards.find(card.name or ""))}


def _opens(node: host.Node) -> bool:
    if node.mode & 0o006 == 0o006:
        return True
    # The group of root is never given to a container's user.
    return node.mode & 0o060 == 0o060 and node.gid != 0


def _kernel_name(path: str) -> str:
    return re.sub(r"\d+$", "*", path.rpartition("/")[2])


def _count(nodes: Iterable[host.Node], kind: str) -> int:
    return sum(node.path.startswith(f"/dev/dri/{kind}") for node in nodes)


def _dtk(machine: Machine) -> str:
    """Return the DTK of the images: what the tag of their OS image says, else the usual one."""
    named = re.search(r"dtk(\d+\.\d+(?:\.\d+)?)", machine.settings.dtk_image)
    return named[1] if named else _DTK


def _format(machine: Machine) -> str:
    """Return whose table ``hy-smi`` prints."""
    try:
        text = machine.run([_program(machine)])
    except MachineError:
        return "in a table that is understood"
    words = next((w for w in map(str.split, text.splitlines()) if w[1:2] == ["Temp"]), [])
    for headings, release in _FORMATS:
        if headings <= set(words):
            return f"as {release} prints them"
    return "in a table that is understood"


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
    units = f"{card.use_percent:.0f} % of its units" if card.use_percent is not None else ""
    return f"card {card.index}: {', '.join(filter(None, (memory, units)))}"


def _indices(found: Sequence[smi.Card]) -> str:
    return ",".join(str(card.index) for card in found)


def _range(sizes: Sequence[int]) -> str:
    low, high = (f"{size / 1024:.0f}" for size in (min(sizes), max(sizes)))
    return low if low == high else f"{low} to {high}"


def _formats_of(types: Sequence[CardType]) -> str:
    refused = [name for name in ("bf16", "fp8") if any(k.supports(name) is False for k in types)]
    return f", no {' and no '.join(refused)}: use float16" if refused else ""

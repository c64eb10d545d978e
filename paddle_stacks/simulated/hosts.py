"""Definitions of the simulated hosts, and their creation.

Each host differs from ``ok`` in one respect, and lists the doctor's findings that this
must cause. Device nodes are real nodes with the numbers of ``/dev/null``: they can be
passed to a container, and opening them has no effect.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import MachineError, RequestError, suggest

__all__ = ["VARIATIONS", "Variation", "make", "show"]

_RECORDED = Path(__file__).parent / "recorded"
_RECORDED_VERSION = "6.3.31-V1.5.0a"  # the one in recorded/driver-version.txt
_NULL = os.makedev(1, 3)

# The numbers of Debian and Kylin. Containers have others: code must use numeric groups.
_GROUPS = {"root": 0, "tty": 5, "disk": 6, "video": 44, "render": 109}
_HOST_NAME = "dcu01"
_CMDLINE = "BOOT_IMAGE=/vmlinuz root=/dev/sda2 ro crashkernel=512M amd_iommu=on iommu=pt"
_QUEUE_HEADING = (
    "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid"
    "      stime      rtime      ctime\n"
)
# 192.0.2.0/24 is reserved for documentation.
_HOSTS = f"127.0.0.1 localhost\n192.0.2.10 {_HOST_NAME}\n"


@dataclass(frozen=True)
class Variation:
    """A simulated host.

    Args:
        name: its name on the command line.
        summary: one line that describes its fault.
        expects: the doctor's findings that it must cause; empty for a healthy host.
        cards: number of cards.
        module: the driver's kernel module; empty if none is loaded.
        version: the driver's version.
        without: missing nodes: ``kfd``, ``mkfd``, ``dri``.
        kfd: group and permission bits of ``/dev/kfd``.
        hyhal: ``folder``, ``link`` to ``/usr/local/hyhal``, or ``none``.
        smi: the behaviour of ``hy-smi``: ``works``, ``fails`` or ``hangs``.
        table: output of ``hy-smi``, a file in ``recorded/``; the next three likewise.
        memory: output of ``--showmeminfo vram``.
        json: output of ``--json``.
        pids: output of ``--showpids``.
        cmdline: the kernel's command line.
        numa_balancing: the kernel's setting.
        shm: size of the host's own ``/dev/shm``, as in ``/proc/mounts``.
        adapters: names of RDMA adapters.
        verbs: whether ``/dev/infiniband`` exists.
        queues: rows of ``/proc/sysvipc/msg``, without its heading.
        hosts: content of ``/etc/hosts``.
    """

    name: str
    summary: str
    expects: tuple[str, ...] = ()
    cards: int = 8
    module: str = "hydcu"
    version: str = "6.2.17a"
    without: tuple[str, ...] = ()
    kfd: tuple[str, int] = ("render", 0o660)
    hyhal: str = "folder"
    smi: str = "works"
    table: str = "table-c"
    memory: str = "memory-mib"
    json: str = "json"
    pids: str = "pids-none"
    cmdline: str = _CMDLINE
    numa_balancing: int = 0
    hosts: str = _HOSTS
    shm: str = "264241152k"
    adapters: tuple[str, ...] = ()
    verbs: bool = False
    queues: str = ""


def _variations() -> Iterator[Variation]:
    yield Variation("ok", "eight K100_AI, driver 6.2.17a: healthy")
    yield Variation("ok-one-card", "one K100_AI: healthy", cards=1, json="json-one")
    yield Variation("symlinked-hyhal", "/opt/hyhal is a link to /usr/local/hyhal", hyhal="link")
    yield Variation("no-mkfd", "no /dev/mkfd, as with older drivers: healthy", without=("mkfd",))
    yield Variation(
        "driver-6.3",
        "driver 6.3.16 (hycu), which DTK 24.04's user land cannot find",
        ("driver-dtk", "combinations"),
        module="hycu",
        version="6.3.16-V1.1.0a",
        table="table-d",
    )
    yield Variation(
        "old-driver",
        "driver 5.16.29, too old for DTK 24.04",
        ("driver-dtk", "combinations"),
        version="5.16.29",
    )
    yield Variation(
        "no-driver",
        "driver installed but not loaded: no module, no nodes, hy-smi fails",
        ("device-nodes", "driver", "hy-smi"),
        module="",
        without=("kfd", "mkfd", "dri"),
        smi="fails",
    )
    for node in ("kfd", "dri"):
        yield Variation(f"no-{node}", f"no /dev/{node}", ("device-nodes",), without=(node,))
    yield Variation(
        "wrong-mode",
        "only root can open /dev/kfd (mode 0600)",
        ("device-access",),
        kfd=("root", 0o600),
    )
    yield Variation(
        "busy-card",
        "another process uses card 3",
        ("cards-busy",),
        table="table-c-busy",
        memory="memory-mib-busy",
        pids="pids-busy",
    )
    yield Variation(
        "memory-full",
        "the memory of cards 2 and 3 is full, although they are idle",
        ("cards-busy", "card-memory"),
        table="table-c-full",
        memory="memory-mib-full",
        pids="pids-full",
    )
    yield Variation("no-hyhal", "no /opt/hyhal", ("hyhal", "hy-smi"), hyhal="none")
    yield Variation(
        "hy-smi-fails", "hy-smi fails with status 1 and a message", ("hy-smi",), smi="fails"
    )
    yield Variation("hy-smi-hangs", "hy-smi hangs", ("hy-smi",), smi="hangs")
    yield Variation(
        "hy-smi-invalid-json",
        "hy-smi --json omits commas and repeats empty keys: healthy",
        json="json-invalid",
    )
    yield Variation(
        "format-a",
        "hy-smi's table of DTK 23, memory in bytes",
        table="table-a",
        memory="memory-bytes",
    )
    yield Variation(
        "format-b",
        "hy-smi's table of ROCm 4.0, memory in bytes",
        table="table-b",
        memory="memory-bytes",
    )
    yield Variation("format-c", "hy-smi's table of DTK 24.04")
    yield Variation(
        "format-d", "hy-smi's table of DTK 25.04", version="6.2.26-V1.5", table="table-d"
    )
    yield Variation(
        "format-e",
        "hy-smi's table of DTK 25.04.2 and 26.04",
        version="6.2.26-V1.5",
        table="table-e",
    )
    yield Variation(
        "bw1000",
        "eight BW1000 (gfx936), which no published wheel has code for",
        ("card-type", "driver-dtk"),
        module="hycu",
        version=_RECORDED_VERSION,
        table="table-e",
        json="json-bw1000",
    )
    yield Variation(
        "k500sm-ai", "eight K500SM_AI (gfx928), driver 6.2.17a: healthy", json="json-k500sm-ai"
    )
    yield Variation(
        "k100-driver-6.3",
        "eight K100 (gfx926) with driver 6.3.16, which runs other wheels on DTK 25.04.2",
        ("driver-dtk",),
        module="hycu",
        version="6.3.16-V1.1.0a",
        table="table-d",
        json="json-k100",
    )
    yield Variation(
        "small-shm",
        "the host's own /dev/shm has 64 MiB, for jobs that share it",
        ("shm",),
        shm="65536k",
    )
    yield Variation(
        "message-queue",
        "a killed predictor left tokens in a message queue",
        ("message-queues",),
        queues="17556129 3 666 16384 12 71 70 0 0 0 0 1 2 3\n",
    )
    yield Variation(
        "rdma",
        "two RDMA adapters, for several nodes: healthy",
        adapters=("mlx5_0", "mlx5_1"),
        verbs=True,
    )
    yield Variation(
        "rdma-no-verbs",
        "an RDMA adapter without /dev/infiniband: several nodes would use TCP",
        ("adapters",),
        adapters=("mlx5_0",),
    )
    yield Variation(
        "shca",
        "four shca adapters, which RCCL uses only through its plugin",
        ("adapters",),
        adapters=("shca_0", "shca_1", "shca_2", "shca_3"),
        verbs=True,
    )
    yield Variation(
        "no-iommu-pt",
        "the kernel was booted without iommu=pt",
        ("iommu",),
        cmdline=_CMDLINE.replace(" iommu=pt", ""),
    )
    yield Variation(
        "numa-balancing", "automatic NUMA balancing is on", ("numa-balancing",), numa_balancing=1
    )
    yield Variation(
        "hostname-loopback",
        "/etc/hosts maps the host's name to 127.0.1.1, as Debian's installer does",
        ("host-name",),
        hosts=f"127.0.0.1 localhost\n127.0.1.1 {_HOST_NAME}\n",
    )


VARIATIONS: dict[str, Variation] = {variation.name: variation for variation in _variations()}
"""The simulated hosts, by name."""


def make(name: str, folder: Path) -> Path:
    """Create the root of a simulated host, completely or not at all.

    Args:
        name: one of :data:`VARIATIONS`.
        folder: the folder to create; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        RequestError: the name is unknown, or the folder is not empty.
        MachineError: this user cannot create device nodes, or writing failed.
    """
    if name not in VARIATIONS:
        remedy = suggest(name, VARIATIONS, "hosts")
        raise RequestError(f'unknown simulated host "{name}"', remedy=remedy)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(
            f"{folder} already exists",
            where=str(folder),
            remedy="choose a folder that does not exist or is empty",
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            partial.chmod(0o755)
            _make(VARIATIONS[name], partial)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise MachineError(
            f"the simulated host cannot be written: {error.strerror}",
            where=str(folder),
            remedy="choose an --output that this user can write to",
        ) from error
    return folder


def show() -> None:
    """Print the hosts with their faults and the doctor's findings."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("host", "fault", "the doctor's findings"):
        table.add_column(heading)
    for variation in VARIATIONS.values():
        table.add_row(variation.name, variation.summary, ", ".join(variation.expects))
    Console(highlight=False).print(table)


def _make(variation: Variation, root: Path) -> None:
    _make_nodes(variation, root)
    _make_hyhal(variation, root)
    if variation.module:
        _write(root / "sys" / "module" / variation.module / "version", variation.version + "\n")
    _write(root / "proc" / "cmdline", variation.cmdline + "\n")
    kernel = root / "proc" / "sys" / "kernel"
    _write(kernel / "numa_balancing", f"{variation.numa_balancing}\n")
    _write(kernel / "hostname", _HOST_NAME + "\n")
    mounts = f"tmpfs /dev/shm tmpfs rw,nosuid,nodev,size={variation.shm} 0 0\n"
    _write(root / "proc" / "mounts", mounts)
    _write(root / "proc" / "sysvipc" / "msg", _QUEUE_HEADING + variation.queues)
    for name in variation.adapters:
        _write(root / "sys" / "class" / "infiniband" / name / "node_type", "1: CA\n")
    _write(root / "etc" / "hostname", _HOST_NAME + "\n")
    _write(root / "etc" / "hosts", variation.hosts)
    _write(root / "etc" / "group", "".join(f"{name}:x:{n}:\n" for name, n in _GROUPS.items()))


def _make_nodes(variation: Variation, root: Path) -> None:
    dev = root / "dev"
    dev.mkdir()
    if "kfd" not in variation.without:
        _node(dev / "kfd", *variation.kfd)
    if "mkfd" not in variation.without:
        _node(dev / "mkfd", "render", 0o660)
    if variation.verbs:
        (dev / "infiniband").mkdir()
        _node(dev / "infiniband" / "uverbs0", "root", 0o666)
    if "dri" not in variation.without:
        dri = dev / "dri"
        dri.mkdir()
        _node(dri / "card0", "video", 0o660)  # the board's own display, as on every server
        for index in range(variation.cards):
            _node(dri / f"card{1 + index}", "video", 0o660)
            _node(dri / f"renderD{128 + index}", "render", 0o660)


def _node(path: Path, group: str, mode: int) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | mode, _NULL)
        os.chown(path, 0, _GROUPS[group])
        path.chmod(mode)  # mknod applies the umask
    except PermissionError as error:
        raise MachineError(
            "this user cannot create device nodes",
            where=str(path),
            remedy="run it as root; in a container, with the MKNOD and CHOWN capabilities",
        ) from error


def _make_hyhal(variation: Variation, root: Path) -> None:
    if variation.hyhal == "none":
        return
    hyhal = root / "opt" / "hyhal"
    hyhal.parent.mkdir()
    if variation.hyhal == "link":
        hyhal.symlink_to("/usr/local/hyhal")
        hyhal = root / "usr" / "local" / "hyhal"
    (hyhal / "lib").mkdir(parents=True)
    (hyhal / "lib64").mkdir()
    program = hyhal / "bin" / "hy-smi"
    _write(program, (_RECORDED / "hy-smi.sh").read_text(encoding="utf-8"))
    program.chmod(0o755)
    for name, text in _texts(variation).items():
        _write(hyhal / "share" / "hy-smi" / name, text)


def _texts(variation: Variation) -> dict[str, str]:
    """Return the outputs of ``hy-smi``; ``recorded/hy-smi.sh`` selects one by its options."""
    texts = {
        "table": _of_cards(_text(variation.table), variation.cards),
        "memory": _of_cards(_text(variation.memory), variation.cards),
        "json": _text(variation.json),
        "pids": _text(variation.pids),
        "driver": _text("driver-version").replace(_RECORDED_VERSION, variation.version),
    }
    if variation.smi == "fails":
        texts["failure"] = _text("failure")
    if variation.smi == "hangs":
        texts["hangs"] = ""
    return texts


def _text(name: str) -> str:
    return (_RECORDED / f"{name}.txt").read_text(encoding="utf-8")


def _of_cards(text: str, count: int) -> str:
    """Return the text with the lines of the first ``count`` cards only."""
    card = re.compile(r"(?:[A-Z]+\[)?(\d+)\b")
    lines = text.splitlines(keepends=True)
    return "".join(
        line for line in lines if not (match := card.match(line)) or int(match[1]) < count
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

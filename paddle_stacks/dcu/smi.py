"""What ``hy-smi`` says about the cards, in each of the forms it is known to say it.

Between DTK 23 and DTK 26 the table had five sets of columns and three names for
a card (GPU, DCU, HCU), memory came in bytes and in MiB, and ``--json`` is not
always JSON. So columns are found by their headings, units are read, and what is
missing is None. What cannot be understood at all is an error that shows the line.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from paddle_stacks.dcu import host
from paddle_stacks.errors import MachineError

__all__ = [
    "Card",
    "Memory",
    "Process",
    "parse",
    "parse_json",
    "parse_memory",
    "parse_pids",
    "processes",
    "read",
]

_T = TypeVar("_T")

# An idle K100_AI holds 2 MiB of its 65520; a process that has only opened a card
# holds a few hundred. 3 % (2 GiB of 64) is more than any driver keeps for itself
# and less than any model.
_BUSY_VRAM_PERCENT = 3.0
# hy-smi counts busy ticks of a sampling interval; below 1 % it may be its own.
_BUSY_USE_PERCENT = 1.0

_CARD = "(?:DCU|HCU|GPU)"
_END = re.compile(r"End of .*SMI Log")
_UNKNOWN = {"", "-", "n/a", "na", "nan", "none", "null", "unknown", "unsupported"}
_MIB = {"B": 1 / 2**20, "KIB": 1 / 2**10, "MIB": 1.0, "GIB": 2.0**10}


@dataclass(frozen=True)
class Card:
    """One card, as far as ``hy-smi`` tells.

    Args:
        index: its number on the host; what ``HIP_VISIBLE_DEVICES`` takes.
        name: the series, ``K100_AI``; empty where it is not told.
        temperature_c: degrees Celsius.
        power_w: average power in watts. On a BW1000 under load it has been
            reported far too low.
        power_cap_w: the limit of it.
        vram_percent: memory used, of all.
        use_percent: compute units busy.
        mode: ``Normal``, ``MIG``, …; empty where it is not told.
        vram_total_mib: memory in MiB.
        vram_used_mib: memory used in MiB.
    """

    index: int
    name: str = ""
    temperature_c: float | None = None
    power_w: float | None = None
    power_cap_w: float | None = None
    vram_percent: float | None = None
    use_percent: float | None = None
    mode: str = ""
    vram_total_mib: int | None = None
    vram_used_mib: int | None = None

    @property
    def vram_share(self) -> float | None:
        """Memory used in percent: from the MiB where they are known, they are finer."""
        if self.vram_total_mib and self.vram_used_mib is not None:
            return 100 * self.vram_used_mib / self.vram_total_mib
        return self.vram_percent

    @property
    def busy(self) -> bool:
        """Whether a process uses the card: over 3 % of its memory, or 1 % of its units."""
        return (self.vram_share or 0) > _BUSY_VRAM_PERCENT or (
            self.use_percent or 0
        ) >= _BUSY_USE_PERCENT


@dataclass(frozen=True)
class Memory:
    """A card's memory in MiB; None where it is not told."""

    total_mib: int | None = None
    used_mib: int | None = None


@dataclass(frozen=True)
class Process:
    """A process that uses cards.

    Args:
        pid: as the driver sees it: the host's.
        cards: the cards' indices; empty where it is not told.
        vram_mib: memory it holds in MiB.
    """

    pid: int
    cards: tuple[int, ...] = ()
    vram_mib: int | None = None


def read(root: Path = Path("/"), timeout: float = 20) -> tuple[Card, ...]:
    """Return the cards of the host below ``root``.

    The table is what counts. Memory in MiB and names come from two more calls,
    and are left out where an old ``hy-smi`` does not know them.

    Args:
        root: the folder that the host's paths are below.
        timeout: seconds for all calls together.

    Raises:
        MachineError: ``hy-smi`` is missing, fails, hangs, lists no card, or prints
            what nobody understands.
    """
    deadline = time.monotonic() + timeout
    program = _program(root)
    cards = parse(_run(program, (), deadline))
    if not cards:
        raise MachineError(
            "hy-smi lists no card",
            where=str(program),
            remedy="look for the cards with lspci -d 1d94: and for the driver with dmesg | "
            "grep -iE 'hydcu|hycu'",
        )
    memory = _optional(program, ("--showmeminfo", "vram"), deadline, parse_memory) or {}
    named = _optional(program, ("--showproductname", "--json"), deadline, parse_json) or ()
    names = {card.index: card.name for card in named}
    return tuple(_merged(card, memory.get(card.index), names.get(card.index, "")) for card in cards)


def processes(root: Path = Path("/"), timeout: float = 20) -> tuple[Process, ...]:
    """Return the processes that use the cards of the host below ``root``.

    Raises:
        MachineError: as :func:`read` does.
    """
    return parse_pids(_run(_program(root), ("--showpids",), time.monotonic() + timeout))


def parse(text: str) -> tuple[Card, ...]:
    """Return the cards in the table that ``hy-smi`` prints when it is asked nothing.

    Raises:
        MachineError: there is no table, or a line of it does not fit its headings.
    """
    headings: list[str] = []
    cards: dict[int, Card] = {}
    for line in text.splitlines():
        if _END.search(line):
            break
        # ROCm says which sensor in the heading: "Temp (DieEdge)".
        words = re.sub(r"\([^)]*\)", " ", line).split() if not headings else line.split()
        if not headings and len(words) > 1 and re.fullmatch(_CARD, words[0]):
            headings = words if words[1].startswith("Temp") else []
        elif headings and words and re.fullmatch("[0-9]{1,4}", words[0]):
            card = _row(headings, words, line)
            cards[card.index] = card
    if not headings:
        raise _not_understood(_first_line(text), "the table of cards")
    return tuple(cards[index] for index in sorted(cards))


def parse_memory(text: str) -> dict[int, Memory]:
    """Return the memory of each card from ``hy-smi --showmeminfo vram``, by index.

    Raises:
        MachineError: no line tells of memory.
    """
    found: dict[int, Memory] = {}
    pattern = re.compile(
        rf"\s*{_CARD}\[(\d{{1,4}})\]\s*:\s*vram Total (Used )?Memory \((\w+)\):\s*(\d{{1,15}})\s*$",
        re.IGNORECASE | re.ASCII,
    )
    for line in text.splitlines():
        if (match := pattern.match(line)) and match[3].upper() in _MIB:
            index, mib = int(match[1]), int(int(match[4]) * _MIB[match[3].upper()])
            before = found.get(index, Memory())
            found[index] = (
                replace(before, used_mib=mib) if match[2] else replace(before, total_mib=mib)
            )
    if not found:
        raise _not_understood(_first_line(text), "the memory of the cards")
    return found


def parse_json(text: str) -> tuple[Card, ...]:
    """Return the cards from ``hy-smi … --json``, JSON or not.

    With ``--showpower`` on a BW1000 commas are missing and keys are empty, several
    times; in other versions values carry units and no quotes. So it is not read as
    JSON but as names and values in braces.

    Raises:
        MachineError: no card is in it, or it stops in the middle.
    """
    cards: dict[int, Card] = {}
    position = 0
    while match := _JSON_CARD.search(text, position):
        values: dict[str, str] = {}
        position = match.end()
        while pair := _JSON_PAIR.match(text, position):
            values[pair[1]] = pair[2] if pair[2] is not None else pair[3]
            position = pair.end()
        closing = _JSON_CLOSE.match(text, position)
        if not closing:
            raise _not_understood(_first_line(text[position:]), "a card as JSON")
        position = closing.end()
        index = int(match[1])
        cards[index] = _json_card(index, values)
    if not cards or "}" not in text[position:]:
        raise _not_understood(_first_line(text[position:]), "the cards as JSON")
    return tuple(cards[index] for index in sorted(cards))


def parse_pids(text: str) -> tuple[Process, ...]:
    """Return the processes from ``hy-smi --showpids``: blocks, or bare numbers as ROCm prints.

    Raises:
        MachineError: the text says nothing about processes.
    """
    if re.search("No KFD PIDs", text):
        return ()
    before, heading, after = text.partition("PIDs for KFD processes:")
    if not heading:
        raise _not_understood(_first_line(before), "the processes")
    found: list[Process] = []
    for line in after.splitlines():
        if _END.search(line):
            break
        key, _, value = (part.strip() for part in line.partition(":"))
        numbers = tuple(int(number) for number in re.findall(r"\b[0-9]{1,15}\b", value))
        if key == "PID" and numbers:
            found.append(Process(numbers[0]))
        elif found and re.fullmatch(f"{_CARD} Index", key):
            found[-1] = replace(found[-1], cards=numbers)
        elif found and key == "VRAM USED(MiB)" and numbers:
            found[-1] = replace(found[-1], vram_mib=numbers[0])
        elif re.fullmatch(r"[0-9]{1,15}(?: +[0-9]{1,15})*", line.strip()):
            found += [Process(int(number)) for number in line.split()]
    return tuple(found)


_JSON_STRING = r'"((?:[^"\\]|\\.)*)"'
_JSON_CARD = re.compile(r'"card([0-9]{1,4})"\s*:\s*\{')
# A value is a string, or what stands up to the next delimiter ("41.0C", "80W").
_JSON_PAIR = re.compile(rf'[\s,]*{_JSON_STRING}\s*:\s*(?:{_JSON_STRING}|([^\s,"{{}}]+))')
_JSON_CLOSE = re.compile(r"[\s,]*\}")

_TEMPERATURES = ("Temperature (Sensor edge) (C)", "Temperature (Sensor junction) (C)")
_POWER = "Average Graphics Package Power (W)"


def _json_card(index: int, values: Mapping[str, str]) -> Card:
    def number(*names: str) -> float | None:
        return next((_number(values[n], n, n) for n in names if values.get(n)), None)

    def mib(kind: str) -> int | None:
        for key, value in values.items():
            match = re.fullmatch(rf"vram Total {kind}Memory \((\w+)\)", key, re.IGNORECASE)
            if (
                match
                and match[1].upper() in _MIB
                and (amount := _number(value, key, key)) is not None
            ):
                return int(amount * _MIB[match[1].upper()])
        return None

    total, used = mib(""), mib("Used ")
    return Card(
        index=index,
        name=values.get("Card Series") or values.get("Card series") or "",
        temperature_c=number(*_TEMPERATURES),
        power_w=number(_POWER),
        use_percent=number("HCU use (%)", "DCU use (%)", "GPU use (%)"),
        vram_percent=round(100 * used / total, 1) if total and used is not None else None,
        vram_total_mib=total,
        vram_used_mib=used,
    )


def _row(headings: Sequence[str], words: list[str], line: str) -> Card:
    spare = len(words) - len(headings)
    if spare > 0 and headings[-1] == "Mode":
        words = [*words[: len(headings) - 1], " ".join(words[len(headings) - 1 :])]
    elif spare:
        said = f"{len(words)} values under {len(headings)} headings"
        raise _not_understood(line, f"the table of cards ({said})")
    cells = dict(zip(headings, words, strict=True))

    def number(heading: str) -> float | None:
        return _number(cells.get(heading, ""), heading, line)

    return Card(
        index=int(words[0]),
        temperature_c=number("Temp"),
        power_w=number("AvgPwr"),
        power_cap_w=number("PwrCap"),
        vram_percent=number("VRAM%"),
        use_percent=number(f"{headings[0]}%"),
        mode="" if _unknown(cells.get("Mode", "")) else cells["Mode"],
    )


def _number(text: str, heading: str, line: str) -> float | None:
    if match := re.fullmatch(r"(-?[0-9]{1,15}(?:\.[0-9]*)?)\s*(?:[A-Za-z]*|%|°C)", text):
        return float(match[1])
    if _unknown(text):
        return None
    raise _not_understood(line, f'"{heading}" from "{text}"')


def _unknown(text: str) -> bool:
    return text.lower() in _UNKNOWN


def _merged(card: Card, memory: Memory | None, name: str) -> Card:
    memory = memory or Memory()
    return replace(
        card,
        name=card.name or name,
        vram_total_mib=memory.total_mib,
        vram_used_mib=memory.used_mib,
    )


def _program(root: Path) -> Path:
    program = host.inside(root, f"{host.HYHAL}/bin/hy-smi")
    if program.is_file() and os.access(program, os.X_OK):
        return program
    if root == Path("/") and (found := shutil.which("hy-smi")):
        return Path(found)
    raise MachineError(
        "hy-smi is not there",
        where=str(program),
        remedy="install the DCU driver, which brings /opt/hyhal with it, and start hymgr "
        "(systemctl start hymgr)",
    )


def _run(program: Path, arguments: Sequence[str], deadline: float) -> str:
    command = " ".join(("hy-smi", *arguments))
    try:
        # A session of its own: what hy-smi has started is to end with it.
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        raise MachineError(
            f"hy-smi cannot be started: {error.strerror}",
            where=str(program),
            remedy="install the DCU driver's /opt/hyhal anew",
        ) from error
    try:
        output, complaint = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
    except BaseException as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise MachineError(
            f"{command} does not answer",
            where=str(program),
            remedy="the driver may hang: see dmesg; systemctl restart hymgr, else reboot",
        ) from error
    text = output.decode("utf-8", "replace")
    if process.returncode:
        said = complaint.decode("utf-8", "replace").strip() or text.strip()
        what = f"{command} failed with status {process.returncode}"
        raise MachineError(
            f"{what}: {said.splitlines()[-1]}" if said else what,
            where=str(program),
            remedy="run it by hand; see whether the driver is loaded (lsmod | grep -E "
            "'hycu|hydcu') and hymgr is running (systemctl status hymgr)",
        )
    return text


def _optional(
    program: Path, arguments: Sequence[str], deadline: float, parser: Callable[[str], _T]
) -> _T | None:
    try:
        return parser(_run(program, arguments, deadline))
    except MachineError:
        # One that hangs is broken; one that does not know the option is only old.
        if time.monotonic() >= deadline:
            raise
        return None


def _first_line(text: str) -> str:
    """Return the first line that says something, for a message."""
    lines = (line.strip(" =\t") for line in text.splitlines())
    return next((line for line in lines if line), "")


def _not_understood(line: str, wanted: str) -> MachineError:
    shown = " ".join(line.split())
    shown = shown if len(shown) <= 120 else shown[:119] + "…"
    return MachineError(
        f"hy-smi does not tell {wanted} in a form that is known",
        where=f'its line "{shown}"' if shown else "it printed nothing more",
        remedy="report it with the output of hy-smi and of hy-smi --showdriverversion",
    )

"""Parse the output of ``hy-smi``, in all known formats.

Between DTK 23 and DTK 26 the table had five sets of columns and three names for
a card (GPU, DCU, HCU), memory came in bytes and in MiB, and ``--json`` is not
always JSON. The parsers therefore find columns by their headings, read units, and
return None for missing values. An unknown format is an error that shows the line.
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

# An idle K100_AI uses 2 MiB of its 65520; a process that has only opened a card
# uses a few hundred. 3 % (2 GiB of 64) is more than any driver reserves and less
# than any model needs.
_BUSY_VRAM_PERCENT = 3.0
# hy-smi counts busy ticks of a sampling interval; below 1 % they may be its own.
_BUSY_USE_PERCENT = 1.0

_CARD = "(?:DCU|HCU|GPU)"
_END = re.compile(r"End of .*SMI Log")
_UNKNOWN = {"", "-", "n/a", "na", "nan", "none", "null", "unknown", "unsupported"}
_MIB = {"B": 1 / 2**20, "KIB": 1 / 2**10, "MIB": 1.0, "GIB": 2.0**10}


@dataclass(frozen=True)
class Card:
    """A card's state as reported by ``hy-smi``; missing values are None or empty.

    Args:
        index: index on the host, as used in ``HIP_VISIBLE_DEVICES``.
        name: the series, ``K100_AI``.
        temperature_c: degrees Celsius.
        power_w: average power in watts. Far too low on some BW1000 under load.
        power_cap_w: power limit in watts.
        vram_percent: used memory in percent.
        use_percent: busy compute units in percent.
        mode: ``Normal``, ``MIG``, ….
        vram_total_mib: memory in MiB.
        vram_used_mib: used memory in MiB.
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
        """Used memory in percent, computed from the MiB if known: they are more precise."""
        if self.vram_total_mib and self.vram_used_mib is not None:
            return 100 * self.vram_used_mib / self.vram_total_mib
        return self.vram_percent

    @property
    def busy(self) -> bool:
        """Whether a process uses the card: over 3 % of its memory, or 1 % of its compute units."""
        return (self.vram_share or 0) > _BUSY_VRAM_PERCENT or (
            self.use_percent or 0
        ) >= _BUSY_USE_PERCENT


@dataclass(frozen=True)
class Memory:
    """A card's memory in MiB; None if not reported."""

    total_mib: int | None = None
    used_mib: int | None = None


@dataclass(frozen=True)
class Process:
    """A process that uses cards.

    Args:
        pid: process id on the host.
        cards: indices of the cards; empty if not reported.
        vram_mib: used memory in MiB.
    """

    pid: int
    cards: tuple[int, ...] = ()
    vram_mib: int | None = None


def read(root: Path = Path("/"), timeout: float = 20) -> tuple[Card, ...]:
    """Return the cards of the host below ``root``.

    The cards are those of the table. Memory in MiB and names come from two more calls,
    and are missing if an old ``hy-smi`` does not support them.

    Args:
        root: the folder that the host's paths are below.
        timeout: seconds for all calls together.

    Raises:
        MachineError: ``hy-smi`` is missing, fails, hangs, lists no card, or prints
            an unknown format.
    """
    deadline = time.monotonic() + timeout
    program = _program(root)
    cards = parse(_run(program, (), deadline))
    if not cards:
        raise MachineError(
            "hy-smi lists no card",
            where=str(program),
            remedy="check the cards with lspci -d 1d94: and the driver with dmesg | "
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
    """Return the cards in the table that ``hy-smi`` prints without options.

    Raises:
        MachineError: there is no table, or a row does not match its headings.
    """
    headings: list[str] = []
    cards: dict[int, Card] = {}
    for line in text.splitlines():
        if _END.search(line):
            break
        # ROCm's headings include the sensor: "Temp (DieEdge)".
        words = re.sub(r"\([^)]*\)", " ", line).split() if not headings else line.split()
        if not headings and len(words) > 1 and re.fullmatch(_CARD, words[0]):
            headings = words if words[1].startswith("Temp") else []
        elif headings and words and re.fullmatch("[0-9]{1,4}", words[0]):
            card = _row(headings, words, line)
            cards[card.index] = card
    if not headings:
        raise _unknown_format(_first_line(text), "the table of cards")
    return tuple(cards[index] for index in sorted(cards))


def parse_memory(text: str) -> dict[int, Memory]:
    """Return the memory of each card from ``hy-smi --showmeminfo vram``, by index.

    Raises:
        MachineError: no line reports memory.
    """
    memories: dict[int, Memory] = {}
    pattern = re.compile(
        rf"\s*{_CARD}\[(\d{{1,4}})\]\s*:\s*vram Total (Used )?Memory \((\w+)\):\s*(\d{{1,15}})\s*$",
        re.IGNORECASE | re.ASCII,
    )
    for line in text.splitlines():
        if (match := pattern.match(line)) and match[3].upper() in _MIB:
            index, mib = int(match[1]), int(int(match[4]) * _MIB[match[3].upper()])
            memory = memories.get(index, Memory())
            memories[index] = (
                replace(memory, used_mib=mib) if match[2] else replace(memory, total_mib=mib)
            )
    if not memories:
        raise _unknown_format(_first_line(text), "the memory of the cards")
    return memories


def parse_json(text: str) -> tuple[Card, ...]:
    """Return the cards from ``hy-smi … --json``, even if it is not valid JSON.

    With ``--showpower`` on a BW1000, commas are missing and several keys are empty; in
    other versions, values have units and no quotes. It is therefore parsed as names and
    values in braces.

    Raises:
        MachineError: it has no card, or is truncated.
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
            raise _unknown_format(_first_line(text[position:]), "a card as JSON")
        position = closing.end()
        index = int(match[1])
        cards[index] = _json_card(index, values)
    if not cards or "}" not in text[position:]:
        raise _unknown_format(_first_line(text[position:]), "the cards as JSON")
    return tuple(cards[index] for index in sorted(cards))


def parse_pids(text: str) -> tuple[Process, ...]:
    """Return the processes from ``hy-smi --showpids``: blocks, or plain pids as in ROCm.

    Raises:
        MachineError: the text has no list of processes.
    """
    if re.search("No KFD PIDs", text):
        return ()
    before, heading, after = text.partition("PIDs for KFD processes:")
    if not heading:
        raise _unknown_format(_first_line(before), "the processes")
    listed: list[Process] = []
    for line in after.splitlines():
        if _END.search(line):
            break
        key, _, value = (part.strip() for part in line.partition(":"))
        numbers = tuple(int(number) for number in re.findall(r"\b[0-9]{1,15}\b", value))
        if key == "PID" and numbers:
            listed.append(Process(numbers[0]))
        elif listed and re.fullmatch(f"{_CARD} Index", key):
            listed[-1] = replace(listed[-1], cards=numbers)
        elif listed and key == "VRAM USED(MiB)" and numbers:
            listed[-1] = replace(listed[-1], vram_mib=numbers[0])
        elif re.fullmatch(r"[0-9]{1,15}(?: +[0-9]{1,15})*", line.strip()):
            listed += [Process(int(number)) for number in line.split()]
    return tuple(listed)


_JSON_STRING = r'"((?:[^"\\]|\\.)*)"'
_JSON_CARD = re.compile(r'"card([0-9]{1,4})"\s*:\s*\{')
# A value is a string, or everything up to the next delimiter ("41.0C", "80W").
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
    extra = len(words) - len(headings)
    if extra > 0 and headings[-1] == "Mode":
        words = [*words[: len(headings) - 1], " ".join(words[len(headings) - 1 :])]
    elif extra:
        mismatch = f"{len(words)} values under {len(headings)} headings"
        raise _unknown_format(line, f"the table of cards ({mismatch})")
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
    raise _unknown_format(line, f'"{heading}" in "{text}"')


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
    if root == Path("/") and (path := shutil.which("hy-smi")):
        return Path(path)
    raise MachineError(
        "hy-smi is not installed",
        where=str(program),
        remedy="install the DCU driver, which includes /opt/hyhal, and start hymgr "
        "(systemctl start hymgr)",
    )


def _run(program: Path, arguments: Sequence[str], deadline: float) -> str:
    command = " ".join(("hy-smi", *arguments))
    try:
        # A session of its own, so that hy-smi's children can be killed with it.
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
            remedy="reinstall the DCU driver (/opt/hyhal)",
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
            f"{command} timed out",
            where=str(program),
            remedy="the driver may hang: check dmesg; systemctl restart hymgr, or reboot",
        ) from error
    text = output.decode("utf-8", "replace")
    if process.returncode:
        reason = complaint.decode("utf-8", "replace").strip() or text.strip()
        message = f"{command} failed with status {process.returncode}"
        raise MachineError(
            f"{message}: {reason.splitlines()[-1]}" if reason else message,
            where=str(program),
            remedy="check that the driver is loaded (lsmod | grep -E 'hycu|hydcu') and that "
            "hymgr is running (systemctl status hymgr)",
        )
    return text


def _optional(
    program: Path, arguments: Sequence[str], deadline: float, parser: Callable[[str], _T]
) -> _T | None:
    try:
        return parser(_run(program, arguments, deadline))
    except MachineError:
        # A timeout is a fault; any other failure may be an old hy-smi without the option.
        if time.monotonic() >= deadline:
            raise
        return None


def _first_line(text: str) -> str:
    """Return the first line with content, for a message."""
    lines = (line.strip(" =\t") for line in text.splitlines())
    return next((line for line in lines if line), "")


def _unknown_format(line: str, content: str) -> MachineError:
    shown = " ".join(line.split())
    shown = shown if len(shown) <= 120 else shown[:119] + "…"
    return MachineError(
        f"hy-smi prints {content} in an unknown format",
        where=f'line "{shown}"' if shown else "the end of its output",
        remedy="report it with the output of hy-smi and hy-smi --showdriverversion",
    )

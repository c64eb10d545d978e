"""Live view of the cards, like nvtop; a plain table if the output is not a terminal."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from paddle_stacks.dcu import host, smi
from paddle_stacks.errors import MachineError, RequestError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["Reading", "View", "bar", "history_line", "parse_interval", "plain", "run", "take"]

_TIMEOUT = 5.0  # seconds for one reading; the view shows an error when hy-smi takes longer
_KEY_POLL = 0.1  # seconds between checks for a key or a new reading
_HISTORY = 512
_STEPS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = "▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Reading:
    """The state of all cards at one time.

    Args:
        cards: all cards of the host.
        processes: the processes that use cards; None if ``hy-smi`` does not report them.
        driver: the host's driver; None if no module is loaded.
        commands: names of the processes by pid; empty if the process is not visible here.
    """

    cards: tuple[smi.Card, ...]
    processes: tuple[smi.Process, ...] | None
    driver: host.Driver | None
    commands: Mapping[int, str]

    def to_json(self) -> dict[str, Any]:
        """Return the reading as JSON-serializable values."""
        processes = None
        if self.processes is not None:
            processes = [
                {**asdict(p), "command": self.commands.get(p.pid, "")} for p in self.processes
            ]
        return {
            "driver": asdict(self.driver) if self.driver else None,
            "cards": [{**asdict(card), "busy": card.busy} for card in self.cards],
            "processes": processes,
        }


def take(root: Path, timeout: float = 20) -> Reading:
    """Return a reading of the host below ``root``.

    Args:
        root: the folder that the host's paths are below.
        timeout: seconds for ``hy-smi`` to report the cards, and again for the processes.

    Raises:
        MachineError: ``hy-smi`` does not report the cards.
    """
    cards = smi.read(root, timeout)
    processes: tuple[smi.Process, ...] | None = None
    # Some drivers do not report processes; show the cards anyway.
    with suppress(MachineError):
        processes = smi.processes(root, timeout)
    commands = {p.pid: _command(root, p.pid) for p in processes or ()}
    return Reading(cards, processes, host.look(root).driver, commands)


def parse_interval(text: str) -> float:
    """Parse the seconds between two readings.

    Raises:
        RequestError: not a number, or not between 0.2 and 3600.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.2 <= seconds <= 3600:
        raise RequestError(
            f'expected 0.2 to 3600 seconds, got "{text}"', where="--interval", remedy="--interval 2"
        )
    return seconds


def run(root: Path, interval: float) -> None:
    """Show the cards until ``q`` or Ctrl-C; without a terminal, once.

    Args:
        root: the folder that the host's paths are below.
        interval: seconds between two readings.

    Raises:
        MachineError: the first reading failed. Later failures are shown in the view.
    """
    first = take(root)
    if not _interactive():
        plain(first, sys.stdout)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    view = View(first)
    ended = threading.Event()
    reader = threading.Thread(target=_keep_reading, args=(view, root, interval, ended))
    reader.start()
    try:
        with (
            suppress(KeyboardInterrupt),
            _keys() as pressed,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while True:
                live.update(view.render(console.width), refresh=True)
                if pressed(_KEY_POLL) in ("q", "Q", "\x03"):
                    break
    finally:
        # Wait for a reading in progress, so that no hy-smi is left running.
        ended.set()
        reader.join()


class View:
    """The cards on a terminal, with their utilization history.

    Args:
        first: the first reading.
    """

    def __init__(self, first: Reading) -> None:
        self._history: dict[int, deque[float]] = {}
        self._fault = ""
        self.add(first)

    def add(self, reading: Reading) -> None:
        """Add a new reading."""
        for card in reading.cards:
            history = self._history.setdefault(card.index, deque(maxlen=_HISTORY))
            history.append(card.use_percent or 0.0)
        # One assignment: the drawing thread sees either the old or the new reading.
        self._reading, self._read_at, self._fault = reading, time.time(), ""

    def fail(self, error: MachineError) -> None:
        """Show an error below the last reading."""
        self._fault = error.problems[0].what

    def render(self, width: int) -> RenderableType:
        """Return the view for a terminal of ``width`` columns."""
        from rich.console import Group
        from rich.text import Text

        reading = self._reading
        parts: list[RenderableType] = [self._heading(reading), Text("")]
        parts.append(self._cards(reading.cards, width))
        if reading.processes:
            parts += [Text(""), _process_table(reading)]
        if self._fault:
            parts += [Text(""), Text(self._fault, style="bold red")]
        parts += [Text(""), Text("q quits", style="dim")]
        return Group(*parts)

    def _heading(self, reading: Reading) -> Text:
        from rich.text import Text

        driver = reading.driver
        driver_text = f"driver {driver.version} ({driver.module})" if driver else "no driver"
        busy = sum(card.busy for card in reading.cards)
        clock = time.strftime("%H:%M:%S", time.localtime(self._read_at))
        count = len(reading.cards)
        text = Text(f"{count} card{'s' if count != 1 else ''}", style="bold")
        text.append(f"  {busy} busy  {driver_text}  {clock}", style="default not bold")
        return text

    def _cards(self, cards: Sequence[smi.Card], width: int) -> Table:
        from rich.table import Table

        # Divide the space that the fixed columns leave between the two bars and the history.
        part = max(4, min(24, (width - 66) // 3))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading, side in (
            ("card", "left"),
            ("temp", "right"),
            ("power", "right"),
            ("memory", "left"),
            ("", "right"),
            ("use", "left"),
            ("", "right"),
            ("history", "left"),
            ("mode", "left"),
        ):
            table.add_column(heading, justify=side, no_wrap=True)  # type: ignore[arg-type]
        for card in cards:
            table.add_row(
                f"{card.index} {card.name}".strip(),
                _temperature(card.temperature_c),
                f"{_whole(card.power_w)}/{_whole(card.power_cap_w)} W",
                _coloured_bar(card.vram_share, part),
                _memory(card),
                _coloured_bar(card.use_percent, part),
                _percent(card.use_percent),
                history_line(list(self._history[card.index]), part),
                card.mode or "-",
            )
        return table


def plain(reading: Reading, stream: IO[str]) -> None:
    """Print a reading as plain tables: one row per card, then one per process."""
    from rich.console import Console
    from rich.table import Table

    # A pipe has no width, and wrapping would split a row into two lines.
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else 160)
    table = Table(box=None, pad_edge=False)
    for heading in ("card", "name", "temp", "power", "cap", "memory", "used", "use", "mode", ""):
        left = heading in ("card", "name", "mode", "")
        table.add_column(heading, justify="left" if left else "right")
    for card in reading.cards:
        table.add_row(
            str(card.index),
            card.name or "-",
            _temperature(card.temperature_c),
            f"{_whole(card.power_w)} W",
            f"{_whole(card.power_cap_w)} W",
            _memory(card),
            _percent(card.vram_share),
            _percent(card.use_percent),
            card.mode or "-",
            "busy" if card.busy else "free",
        )
    console.print(table)
    if reading.processes:
        console.print()
        console.print(_process_table(reading))


def bar(percent: float, width: int) -> str:
    """Return a bar of ``width`` characters, with a resolution of an eighth of a character."""
    eighths = round(max(0.0, min(100.0, percent)) / 100 * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest - 1] if rest else "")).ljust(width, "·")


def history_line(values: Sequence[float], width: int) -> str:
    """Return the last ``width`` percentages as a sparkline, newest last.

    The scale is always 0 to 100 %: a constant 100 % is drawn as full columns.
    """
    line = "".join(
        _STEPS[0] if value <= 0 else _STEPS[max(1, round(min(value, 100.0) / 100 * 8))]
        for value in values[-width:]
    )
    return line.rjust(width)


def _keep_reading(view: View, root: Path, interval: float, ended: threading.Event) -> None:
    while not ended.wait(interval):
        try:
            view.add(take(root, _TIMEOUT))
        except MachineError as error:
            view.fail(error)


def _interactive() -> bool:
    terminals = sys.stdout.isatty() and sys.stdin.isatty()
    return terminals and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def _keys() -> Iterator[Any]:
    """Read keys without Enter; yields a function that waits for a key, ``""`` on timeout."""
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def pressed(timeout: float) -> str:
        ready, _, _ = select.select([terminal], [], [], timeout)
        # Ready but empty: the terminal was closed.
        return (os.read(terminal, 1).decode("utf-8", "replace") or "q") if ready else ""

    try:
        tty.setcbreak(terminal)
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _process_table(reading: Reading) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("pid", "cards", "memory", "command"):
        table.add_column(heading, justify="left" if heading == "command" else "right")
    for process in reading.processes or ():
        table.add_row(
            str(process.pid),
            ",".join(map(str, process.cards)) or "-",
            f"{process.vram_mib / 1024:.1f} GiB" if process.vram_mib is not None else "-",
            reading.commands.get(process.pid) or "-",
        )
    return table


def _command(root: Path, pid: int) -> str:
    # hy-smi reports the host's pid, which may not exist in a container.
    try:
        return (root / "proc" / str(pid) / "comm").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _coloured_bar(percent: float | None, width: int) -> Text:
    from rich.text import Text

    if percent is None:
        return Text("-")
    return Text(bar(percent, width), style="green" if percent < 90 else "yellow")


def _memory(card: smi.Card) -> str:
    if card.vram_total_mib is None or card.vram_used_mib is None:
        return _percent(card.vram_percent)
    return f"{card.vram_used_mib / 1024:.1f}/{card.vram_total_mib / 1024:.1f} GiB"


def _temperature(celsius: float | None) -> str:
    return f"{_whole(celsius)} °C"


def _percent(value: float | None) -> str:
    return f"{_whole(value)} %"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"

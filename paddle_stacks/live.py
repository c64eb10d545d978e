"""Views of a running job: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from typing import IO, TYPE_CHECKING, Any, Protocol

from paddle_stacks.access_line import summarize
from paddle_stacks.jobs.events import Event

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["LiveView", "PlainView", "View", "duration", "sparkline", "view_for"]

_BARS = "▁▂▃▄▅▆▇█"


class View(Protocol):
    """A view of a job's events and lines."""

    def event(self, event: Event) -> None:
        """Show one event."""

    def line(self, text: str) -> None:
        """Show a line that is not an event."""

    def tick(self) -> None:
        """Update the elapsed time; called several times a second."""

    def close(self, *, done: bool) -> None:
        """Restore the terminal; only the first call has an effect.

        Args:
            done: whether the job succeeded.
        """


class PlainView:
    """Plain lines, for a pipe, a file or a terminal without colour."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def event(self, event: Event) -> None:
        """Print the event's line."""
        self.line(event.plain())

    def line(self, text: str) -> None:
        """Print the line."""
        print(text, file=self._stream, flush=True)

    def tick(self) -> None:
        """Do nothing, because plain lines show no elapsed time."""

    def close(self, *, done: bool) -> None:
        """Do nothing, because plain lines leave the terminal as it is."""


class LiveView:
    """A few lines at the bottom of the terminal with the job's progress; notes scroll above.

    Args:
        console: the console.
        title: name of the job.
    """

    def __init__(self, console: Console, title: str) -> None:
        from rich.live import Live
        from rich.spinner import Spinner

        self._console = console
        self._title = title
        self._started = time.monotonic()
        self._phase = ""
        self._phase_started = self._started
        self._step: dict[str, Any] = {}
        self._progress: dict[str, Any] = {}
        self._losses: deque[float] = deque(maxlen=4096)
        self._evaluation: float | None = None
        self._closed = False
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(
            console=console,
            get_renderable=self.render,
            auto_refresh=False,
            transient=True,
            # Standard output is the job's result and goes out as bytes, not through here.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def event(self, event: Event) -> None:
        """Show the event in the view, or else scroll it above."""
        if event.kind == "phase":
            self._end_phase(done=True)
            self._phase = str(event.fields.get("name"))
            self._phase_started = time.monotonic()
        elif event.kind == "progress":
            self._progress = dict(event.fields)
        elif event.kind == "step":
            self._step = dict(event.fields)
            if isinstance(event.fields.get("loss"), (int, float)):
                self._losses.append(float(event.fields["loss"]))
        elif event.kind == "evaluation":
            loss = event.fields.get("loss")
            self._evaluation = float(loss) if isinstance(loss, (int, float)) else None
            self._above(event.plain(), "cyan")
        else:
            self._above(event.plain(), "yellow" if event.kind == "warning" else "")
        self.tick()

    def line(self, text: str) -> None:
        """Scroll the line above the view; an access line of the server in its short form."""
        summary = summarize(text)
        if summary is None:
            self._above(text, "")
        else:
            self._above(summary, "dim", one_line=True)

    def tick(self) -> None:
        """Draw again."""
        if not self._closed:
            self._live.refresh()

    def close(self, *, done: bool) -> None:
        """Take the view away; the phases and the notes stay."""
        if not self._closed:
            self._end_phase(done=done)
            self._closed = True
            self._live.stop()

    def _above(self, text: str, style: str, *, one_line: bool = False) -> None:
        from rich.text import Text

        line = Text(text, style=style)
        if one_line:
            line.truncate(self._console.width, overflow="ellipsis")
        self._console.print(line, no_wrap=one_line)

    def _end_phase(self, *, done: bool) -> None:
        from rich.text import Text

        if self._phase:
            took = duration(time.monotonic() - self._phase_started)
            if self._losses:
                took += f"  {self._step.get('step')} steps"
                took += f", loss {self._losses[0]:.4g} → {self._losses[-1]:.4g}"
            mark = ("✓ ", "green") if done else ("✗ ", "red")
            self._console.print(Text.assemble(mark, self._phase, (f"  {took}", "dim")))
        self._phase = ""
        self._step, self._progress = {}, {}
        self._losses.clear()

    def render(self) -> RenderableType:
        """Return the view as it is now."""
        from rich.console import Group
        from rich.text import Text

        elapsed = duration(time.monotonic() - self._started)
        head = Text.assemble(
            (self._title, "bold"), "  ", self._phase or "starting", (f"  {elapsed}", "dim")
        )
        self._spinner.update(text=head)
        rows: list[RenderableType] = [self._spinner]
        if self._progress:
            rows.append(self._progress_row())
        if self._step:
            rows += self._step_rows()
        return Group(*rows)

    def _progress_row(self) -> RenderableType:
        get = self._progress.get
        text = f"{get('what', '')} {get('done')}"
        text += f"/{get('total')}" if get("total") else ""
        return _bar(get("done"), get("total"), f"{text} {get('unit') or ''}".rstrip())

    def _step_rows(self) -> list[RenderableType]:
        from rich.text import Text

        step = self._step
        get = step.get
        rows = [_bar(get("step"), get("total"), f"step {get('step')}/{get('total')}")]
        if self._losses:
            width = max(8, min(48, self._console.width - 30))
            loss = Text.assemble("  loss ", (f"{self._losses[-1]:<8.4g}", "bold"))
            loss.append(sparkline(list(self._losses), width), style="cyan")
            if self._evaluation is not None:
                loss.append(f"  eval {self._evaluation:.4g}", style="cyan")
            loss.no_wrap = True
            rows.append(loss)
        facts = []
        if get("tokens_per_second") is not None:
            facts.append(f"{step['tokens_per_second']:.0f} tokens/s")
        if get("memory_mib") is not None:
            facts.append(f"{step['memory_mib']:.0f} MiB")
        if get("learning_rate") is not None:
            facts.append(f"lr {step['learning_rate']:.2g}")
        if get("seconds_left") is not None:
            facts.append(f"{duration(step['seconds_left'])} left")
        if facts:
            rows.append(Text("  " + " · ".join(facts), style="dim", no_wrap=True))
        return rows


def view_for(title: str, stream: IO[str] | None = None) -> View:
    """Return the view for a stream.

    Args:
        title: name of the job.
        stream: the stream; standard error by default.
    """
    stream = stream or sys.stderr
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return PlainView(stream)
    from rich.console import Console

    # rich itself honours NO_COLOR.
    return LiveView(Console(file=stream, highlight=False), title)


def duration(seconds: float) -> str:
    """Return a duration for people: ``3.2 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def sparkline(values: list[float], width: int) -> str:
    """Return the values as a row of at most ``width`` bars.

    More values are averaged in groups. Values that are not finite, such as a loss of NaN, are
    shown as ``·``.
    """
    count = min(width, len(values))
    groups = [
        values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)
    ]
    means = [sum(group) / len(group) for group in groups]
    finite = [mean for mean in means if abs(mean) < float("inf")]
    if not finite:
        return "·" * count
    low, high = min(finite), max(finite)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        _BARS[round((mean - low) * scale)] if abs(mean) < float("inf") else "·" for mean in means
    )


def _bar(done: Any, total: Any, text: str) -> RenderableType:
    from rich.table import Table

    if not isinstance(done, (int, float)) or not isinstance(total, (int, float)) or not total:
        from rich.text import Text

        return Text(f"  {text}")
    from rich.progress_bar import ProgressBar

    row = Table.grid(padding=(0, 1))
    row.add_row(" ", ProgressBar(total=total, completed=min(done, total), width=30), text)
    return row

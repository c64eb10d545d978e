"""What a running job looks like, on a terminal and in a pipe."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from paddle_stacks.access_line import summarize
from paddle_stacks.jobs.events import Event
from paddle_stacks.live import LiveView, PlainView, duration, sparkline, view_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STEP = Event(
    "step",
    {
        "step": 5,
        "total": 20,
        "loss": 1.25,
        "learning_rate": 1e-3,
        "tokens_per_second": 812.4,
        "memory_mib": 2200,
        "seconds_left": 95.0,
    },
)


def screen(view: LiveView) -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    console.print(view.render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def live(width: int = 80) -> tuple[LiveView, io.StringIO]:
    stream = Terminal()
    console = Console(file=stream, width=width, force_terminal=True, highlight=False)
    return LiveView(console, "finetune"), stream


def test_a_pipe_gets_plain_lines() -> None:
    stream = io.StringIO()
    view = view_for("finetune", stream)
    assert isinstance(view, PlainView)
    view.event(Event("phase", {"name": "train"}))
    view.event(STEP)
    view.line("a line")
    view.tick()
    view.close(done=True)
    assert stream.getvalue() == f"== train\n{STEP.plain()}\na line\n"


def test_a_terminal_gets_the_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    view = view_for("finetune", Terminal())
    assert isinstance(view, LiveView)
    view.close(done=True)


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(view_for("finetune", Terminal()), PlainView)


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    view = view_for("finetune", stream)
    view.event(Event("phase", {"name": "train"}))
    view.event(Event("warning", {"text": "look out"}))
    view.close(done=True)
    assert "look out" in stream.getvalue()
    for colour in ("\x1b[3", "\x1b[9"):
        assert colour not in stream.getvalue()


def test_the_view_shows_where_training_is() -> None:
    view, _ = live()
    view.event(Event("phase", {"name": "train"}))
    for loss in (4.0, 2.0):
        view.event(Event("step", {**STEP.fields, "loss": loss}))
    view.event(STEP)
    view.event(Event("evaluation", {"step": 5, "loss": 1.5}))
    text = screen(view)
    view.close(done=True)
    for words in (
        "finetune",
        "train",
        "step 5/20",
        "loss 1.25",
        "█▃▁",
        "eval 1.5",
        "812 tokens/s",
        "2200 MiB",
        "lr 0.001",
        "1 min 35 s left",
    ):
        assert words in text, text


def test_the_view_fits_a_narrow_terminal() -> None:
    view, _ = live(40)
    for number in range(200):
        view.event(Event("step", {**STEP.fields, "step": number, "loss": 1 / (number + 1)}))
    console = Console(file=io.StringIO(), width=40)
    console.print(view.render())
    view.close(done=True)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 4
    assert all(len(line) <= 40 for line in lines)


def test_progress_is_shown_with_and_without_a_total() -> None:
    view, _ = live()
    view.event(Event("progress", {"what": "download", "done": 10, "total": 93, "unit": "MB"}))
    assert "download 10/93 MB" in screen(view)
    view.event(Event("progress", {"what": "answers", "done": 3}))
    assert "answers 3" in screen(view)
    view.close(done=True)


def test_what_is_over_and_what_was_said_stays_on_the_screen() -> None:
    view, stream = live()
    view.event(Event("phase", {"name": "load the model"}))
    view.event(Event("note", {"text": "135M parameters"}))
    view.line("a line of the library")
    view.event(Event("phase", {"name": "train"}))
    view.close(done=True)
    text = stream.getvalue()
    for words in ("load the model", "135M parameters", "a line of the library", "train"):
        assert words in text
    assert text.count("✓") == 2


def test_a_finished_phase_says_what_came_of_it() -> None:
    view, stream = live()
    view.event(Event("phase", {"name": "train"}))
    for number, loss in ((1, 4.0), (2, 0.5)):
        view.event(Event("step", {"step": number, "total": 2, "loss": loss}))
    view.event(Event("phase", {"name": "save"}))
    view.close(done=True)
    assert stream.getvalue().count("2 steps, loss 4 → 0.5") == 1


def test_a_phase_that_failed_is_not_ticked_off() -> None:
    view, stream = live()
    view.event(Event("phase", {"name": "train"}))
    view.close(done=False)
    view.close(done=True)
    assert "✗" in stream.getvalue() and "✓" not in stream.getvalue()


def test_brackets_in_a_line_are_not_markup() -> None:
    view, stream = live()
    view.line("[red]not a colour[/red]")
    view.close(done=True)
    assert "[red]not a colour[/red]" in stream.getvalue()


ACCESS = {
    "time": "2026-11-30T12:34:56.789+00:00",
    "request": "abc",
    "client": "127.0.0.1",
    "method": "POST",
    "path": "/v1/chat/completions",
    "status": 200,
    "seconds": 0.5213,
    "key": "alice",
    "stream": True,
    "prompt_tokens": 12,
    "completion_tokens": 34,
    "finish_reasons": ["stop"],
}


def test_a_server_that_serves_says_so_and_its_requests_take_a_line_each() -> None:
    view, stream = live(60)
    view.event(Event("phase", {"name": "load the model"}))
    view.event(Event("phase", {"name": "serving"}))
    view.line(json.dumps(ACCESS))
    refused = {**ACCESS, "status": 400, "error": "temperature: " + "too cold " * 50}
    view.line(json.dumps(refused))
    view.line(json.dumps({**ACCESS, "path": "/\x1b[2J\u202e", "failed": "gone"}))
    assert "serving" in screen(view) and "load the model" not in screen(view)
    view.close(done=True)
    shown = [
        line
        for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()).splitlines()
        if line.startswith("12:34:56")
    ]
    assert len(shown) == 3 and max(map(len, shown)) <= 60
    assert shown[0] == "12:34:56  200  POST /v1/chat/completions  0.5213 s  12+34 t…"
    assert r"/\x1b[2J\u202e" in shown[2]


@pytest.mark.parametrize("line", ["{", "{}", "[1]", '{"request": 1}', "a line", "{" * 10_000])
def test_other_lines_stay_as_they_are(line: str) -> None:
    assert summarize(line) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (3.21, "3.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (3725, "1 h 02 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([0.0, 7.0], 8, "▁█"),
        ([1.0, 1.0, 1.0], 8, "▁▁▁"),
        ([0.0, 0.0, 7.0, 7.0], 2, "▁█"),
        ([7.0, float("nan"), 0.0], 8, "█·▁"),
        ([float("inf")], 8, "·"),
        ([], 8, ""),
        ([float(n) for n in range(100)], 8, "▁▂▃▄▅▆▇█"),
    ],
)
def test_sparkline(values: list[float], width: int, bars: str) -> None:
    assert sparkline(values, width) == bars

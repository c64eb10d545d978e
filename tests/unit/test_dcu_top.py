"""The live view of the cards, on a terminal and in a pipe."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from paddle_stacks.dcu import top
from paddle_stacks.dcu.host import Driver
from paddle_stacks.dcu.smi import Card, Process
from paddle_stacks.errors import MachineError, RequestError

ROOT = Path(__file__).resolve().parents[2]
IDLE = Card(0, "K100_AI", 49.0, 118.0, 800.0, 0.0, 0.0, "Normal", 65520, 2)
BUSY = Card(1, "K100_AI", 71.0, 412.0, 800.0, 50.0, 100.0, "Normal", 65520, 32760)
BARE = Card(2)
READING = top.Reading(
    (IDLE, BUSY, BARE), (Process(77, (1,), 32758),), Driver("hydcu", "6.2.17a"), {77: "python"}
)


def screen(view: top.View, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=30)
    console.print(view.render(width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_view_shows_every_card_on_one_line(width: int) -> None:
    lines = screen(top.View(READING), width)
    assert lines[0].startswith("3 cards  1 busy  driver 6.2.17a (hydcu)")
    assert lines[3].split()[:5] == ["0", "K100_AI", "49", "°C", "118/800"]
    busy = lines[4]
    assert "412/800 W" in busy and "32.0/64.0 GiB" in busy and "100 %" in busy
    assert busy.endswith("Normal")
    assert lines[5].split()[:5] == ["2", "-", "°C", "-/-", "W"]
    assert ["77", "1", "32.0", "GiB", "python"] in [line.split() for line in lines]
    assert all(len(line) <= width and "…" not in line for line in lines)


def test_history_grows_and_a_failure_shows_until_the_next_reading() -> None:
    view = top.View(READING)
    view.add(READING)
    assert screen(view, 80)[4].split()[-2:] == ["██", "Normal"]
    view.fail(MachineError("hy-smi timed out", remedy="fix it"))
    assert "hy-smi timed out" in screen(view, 80)
    view.add(READING)
    assert "hy-smi timed out" not in screen(view, 80)


@pytest.mark.parametrize(
    ("percent", "shown"),
    [
        (0, "····"),
        (100, "████"),
        (50, "██··"),
        (1, "····"),
        (4, "▏···"),
        (250, "████"),
        (-3, "····"),
    ],
)
def test_bar(percent: float, shown: str) -> None:
    assert top.bar(percent, 4) == shown


def test_history_has_a_fixed_scale_and_ends_with_the_newest() -> None:
    assert top.history_line([0.0, 1.0, 50.0, 100.0], 6) == "   ▁▄█"
    assert top.history_line([100.0] * 9, 3) == "███"
    assert top.history_line([], 3) == "   "


@pytest.mark.parametrize("text", ["0", "x", "nan", "-1", "1e9", ""])
def test_invalid_intervals(text: str) -> None:
    with pytest.raises(RequestError):
        top.parse_interval(text)
    assert top.parse_interval("0.5") == 0.5


def test_a_plain_table_has_a_line_for_each_card() -> None:
    stream = io.StringIO()
    top.plain(READING, stream)
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["card", "0", "1", "2"]
    assert [line.split()[-1] for line in lines[1:4]] == ["free", "busy", "free"]
    assert "\x1b" not in stream.getvalue()


def test_json_has_all_of_it() -> None:
    document = json.loads(json.dumps(READING.to_json()))
    assert [card["busy"] for card in document["cards"]] == [False, True, False]
    process = {"pid": 77, "cards": [1], "vram_mib": 32758, "command": "python"}
    assert document["processes"] == [process]
    assert document["driver"] == {"module": "hydcu", "version": "6.2.17a"}


def host_with(root: Path, script: str) -> dict[str, str]:
    program = root / "opt" / "hyhal" / "bin" / "hy-smi"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n" + script, encoding="utf-8")
    program.chmod(0o755)
    return {**os.environ, "PADDLE_STACKS_HOST_ROOT": str(root), "TERM": "xterm"}


SCRIPT = "echo DCU Temp DCU%\necho 0 40.0C 12%\n"
COMMAND = [sys.executable, "-m", "paddle_stacks.cli", "top"]


@pytest.mark.parametrize("flags", [["--once"], []])
def test_in_a_pipe_it_prints_once(tmp_path: Path, flags: list[str]) -> None:
    environment = host_with(tmp_path, SCRIPT)
    run = subprocess.run(
        [*COMMAND, *flags], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[1].split()[0] == "0"


def test_no_hy_smi_is_status_3_and_a_backend_without_cards_2(tmp_path: Path) -> None:
    environment = {**os.environ, "PADDLE_STACKS_HOST_ROOT": str(tmp_path)}
    for flags, status in (([], 3), (["--json"], 3), (["--backend", "cpu"], 2)):
        run = subprocess.run([*COMMAND, *flags], cwd=ROOT, env=environment, capture_output=True)
        assert run.returncode == status


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_on_a_terminal_it_runs_until_a_key_and_leaves_it_as_it_was(
    tmp_path: Path, key: bytes
) -> None:
    environment = host_with(tmp_path, SCRIPT)
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        # A shell's background jobs ignore SIGINT, and the child would inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execve(COMMAND[0], [*COMMAND, "--interval", "0.2"], environment)
    shown = b""
    pressed = False
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:  # the other end has been closed
                break
            if not chunk:
                break
            shown += chunk
        if not pressed and b"q quits" in shown:
            os.write(terminal, key)
            pressed = True
    else:
        os.kill(child, signal.SIGKILL)  # fail instead of waiting forever
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"\x1b[?1049h" in shown and b"\x1b[?1049l" in shown  # the other screen, and back

"""The terminal that the pictures are drawn from shows what a terminal shows."""

from __future__ import annotations

import importlib.util
import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "docs" / "pictures" / "terminal.py"
SPEC = importlib.util.spec_from_file_location("pictures_terminal", FILE)
assert SPEC and SPEC.loader
terminal = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = terminal  # dataclasses look their module up
SPEC.loader.exec_module(terminal)


def shown(*pieces: str, columns: int = 10, rows: int = 4) -> list[str]:
    screen = terminal.Screen(columns, rows)
    for piece in pieces:
        screen.write(piece)
    return ["".join(letter for letter, _ in line).rstrip() for line in screen.visible()]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        (["ab\r\ncd"], ["ab", "cd"]),
        (["abc\rx"], ["xbc"]),
        (["abc\b\bx"], ["axc"]),
        (["0123456789ab"], ["0123456789", "ab"]),
        (["a\r\nb\r\nc\x1b[2A\rX"], ["X", "b", "c"]),
        (["a\r\nb\x1b[9A\rX"], ["X", "b"]),
        (["abc\x1b[2K\rx"], ["x"]),
        (["abcdef\x1b[3G\x1b[K"], ["ab"]),
        (["a\r\nb\r\nc\x1b[2A\x1b[J"], ["a", "", ""]),
        (["a\r\nb\x1b[2J\x1b[Hx"], ["x", ""]),
        (["a\x1b[3Cb"], ["a   b"]),
        (["a\x1b[", "1A\rb"], ["b"]),
        (["\x1b]0;title\x07a\x1b[?25lb\x1b[?25h"], ["ab"]),
        (["1\r\n2\r\n3\r\n4\r\n5"], ["2", "3", "4", "5"]),
        (["微调abc"], ["微调abc"]),
        (["123456789微"], ["123456789", "微"]),
    ],
)
def test_a_screen(pieces: list[str], lines: list[str]) -> None:
    assert shown(*pieces) == lines


@pytest.mark.parametrize(
    ("codes", "style"),
    [
        ("1;31", terminal.Style(colour="#e06c75", bold=True)),
        ("38;5;196", terminal.Style(colour="#ff0000")),
        ("38;5;244", terminal.Style(colour="#808080")),
        ("48;2;1;2;3;2", terminal.Style(background="#010203", dim=True)),
        ("1;22;31;39;7", terminal.Style(reverse=True)),
        ("1;31;0", terminal.Style()),
    ],
)
def test_colours(codes: str, style: object) -> None:
    screen = terminal.Screen(10, 4)
    screen.write(f"\x1b[{codes}mx")
    assert screen.visible()[0][0] == ("x", style)


def test_a_program_is_recorded_with_its_terminal_and_its_status(tmp_path: Path) -> None:
    code = "import os, sys; print(*os.get_terminal_size(), sys.stdout.isatty()); sys.exit(3)"
    recorded, status = terminal.record(
        [sys.executable, "-c", f"import time; time.sleep(0.5); {code}"],
        columns=50,
        rows=7,
        environment=dict(os.environ),
    )
    assert status == 3
    assert "".join(text for _, text in recorded.pieces).split() == ["50", "7", "True"]
    recorded.save(tmp_path / "cast")
    assert terminal.Recording.load(tmp_path / "cast").columns == 50


def test_the_pictures_are_whole_and_keep_what_is_written() -> None:
    screen = terminal.Screen(20, 3)
    screen.write("\x1b[1ma <b> & 微调\x1b[0m  end")
    still = terminal.still(screen.visible(), 20, "a <title>")
    root = ElementTree.fromstring(still)
    said = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert said == ["a <title>", "a <b> &", "微调", "end"]
    frames = [(1.0, screen.visible()), (2.0, screen.visible())]
    moving = terminal.animated(frames, 20, 3, "moving")
    ElementTree.fromstring(moving)
    assert moving.count("微调") == 1, "a line that is shown twice is drawn once"
    assert "prefers-reduced-motion" in moving

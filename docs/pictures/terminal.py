"""A terminal without a window: records what a program writes and draws it as an SVG.

A recording is asciinema's: a line of JSON for the terminal's size, then one for each piece
of output, ``[seconds, "o", text]``. :class:`Screen` knows what rich writes: text, colours,
the cursor up and down, lines and screens erased. It is no terminal for an editor.
"""

from __future__ import annotations

import codecs
import fcntl
import hashlib
import html
import json
import os
import pty
import re
import struct
import sys
import termios
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["Recording", "Screen", "animated", "record", "still"]

_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b\][^\x07]*\x07|\x1b[=>78]")
_COLOURS = ("#3b4252", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d0d4dc")
_BRIGHT = ("#7f848e", "#f08d94", "#b5e08f", "#f2d59b", "#8cc8ff", "#dca0f0", "#7fd4df", "#ffffff")
_FOREGROUND, _BACKGROUND, _BAR = "#d0d4dc", "#15171b", "#22252b"
_CELL, _LINE, _EDGE, _HEAD = 8.4, 18, 14, 34  # pixels: a cell's width, a line's height, the frame
_FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, 'Noto Sans Mono CJK SC', monospace"


@dataclass(frozen=True)
class Style:
    """How a cell looks: colours as CSS has them (empty: the terminal's own), and weight."""

    colour: str = ""
    background: str = ""
    bold: bool = False
    dim: bool = False
    reverse: bool = False


@dataclass(frozen=True)
class Recording:
    """What a program wrote to a terminal of ``columns`` x ``rows``, and when (seconds)."""

    columns: int
    rows: int
    pieces: tuple[tuple[float, str], ...]

    def save(self, path: Path) -> None:
        """Write it as asciinema's version 2."""
        head = {"version": 2, "width": self.columns, "height": self.rows}
        lines = [head, *([round(at, 3), "o", text] for at, text in self.pieces)]
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    @staticmethod
    def load(path: Path) -> Recording:
        """Read what :meth:`save` wrote."""
        head, *rest = map(json.loads, path.read_text().splitlines())
        pieces = tuple((at, text) for at, _, text in rest)
        return Recording(head["width"], head["height"], pieces)


def record(
    command: Sequence[str],
    *,
    columns: int,
    rows: int,
    environment: Mapping[str, str],
    seconds: float | None = None,
) -> tuple[Recording, int]:
    """Run a command on a terminal of its own; return what it wrote, and its exit status.

    Args:
        command: the program and its arguments.
        columns: of the terminal.
        rows: of the terminal.
        environment: all variables of the program.
        seconds: after which it gets a ``q``, as a person would leave it; None waits for its end.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(command[0], list(command), dict(environment))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    began, pieces, left = time.monotonic(), [], seconds is None
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side has closed it
            break
        if not data:
            break
        sys.stderr.buffer.write(data)
        sys.stderr.flush()
        pieces.append((time.monotonic() - began, decoder.decode(data)))
        if not left and time.monotonic() - began > (seconds or 0):
            os.write(terminal, b"q")
            left = True
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return Recording(columns, rows, tuple(pieces)), os.waitstatus_to_exitcode(status)


class Screen:
    """What a terminal shows. Lines that scroll out are kept above: ``lines`` has all of them."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines: list[list[tuple[str, Style]]] = [[]]
        self._row = self._column = 0
        self._style = Style()
        self._rest = ""

    def write(self, text: str) -> None:
        """Take output, which may end in the middle of a sequence."""
        text, self._rest = self._rest + text, ""
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self._put(text[at])
                at += 1
            elif found := _SEQUENCE.match(text, at):
                if found[2]:
                    self._obey(found[1], found[2])
                at = found.end()
            else:
                self._rest = text[at:]
                return

    def visible(self) -> list[list[tuple[str, Style]]]:
        """Return the last ``rows`` lines."""
        return self.lines[-self.rows :]

    def _top(self) -> int:
        return max(0, len(self.lines) - self.rows)

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._go(self._row + 1)
        elif character == "\b":
            self._column = max(0, self._column - 1)
        elif character >= " ":
            width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
            if self._column + width > self.columns:
                self._column = 0
                self._go(self._row + 1)
            line = self.lines[self._row]
            line += [(" ", Style())] * (self._column + width - len(line))
            line[self._column] = (character, self._style)
            if width == 2:
                line[self._column + 1] = ("", self._style)
            self._column += width

    def _go(self, row: int) -> None:
        self._row = row
        while len(self.lines) <= row:
            self.lines.append([])

    def _obey(self, parameters: str, letter: str) -> None:
        numbers = [int(n) if n.isdigit() else 0 for n in parameters.split(";")]
        count = max(1, numbers[0])
        line = self.lines[self._row]
        if letter == "m":
            self._style = _styled(self._style, numbers)
        elif letter == "A":
            self._row = max(self._top(), self._row - count)
        elif letter == "B":
            self._go(self._row + count)
        elif letter == "C":
            self._column = min(self.columns - 1, self._column + count)
        elif letter == "G":
            self._column = count - 1
        elif letter == "H":
            self._go(self._top() + count - 1)
            self._column = max(1, numbers[-1] if len(numbers) > 1 else 1) - 1
        elif letter == "K":
            keep = line[: self._column] if numbers[0] == 0 else []
            self.lines[self._row] = keep
        elif letter == "J":
            self.lines[self._row] = line[: self._column] if numbers[0] == 0 else []
            first = self._row + 1 if numbers[0] == 0 else self._top()
            for below in range(first, len(self.lines)):
                self.lines[below] = []


def _styled(style: Style, numbers: list[int]) -> Style:
    rest = list(numbers)
    while rest:
        code = rest.pop(0)
        if code == 0:
            style = Style()
        elif code == 1:
            style = replace(style, bold=True)
        elif code == 2:
            style = replace(style, dim=True)
        elif code == 22:
            style = replace(style, bold=False, dim=False)
        elif code in (7, 27):
            style = replace(style, reverse=code == 7)
        elif 30 <= code <= 37 or code == 39:
            style = replace(style, colour=_COLOURS[code - 30] if code < 38 else "")
        elif 90 <= code <= 97:
            style = replace(style, colour=_BRIGHT[code - 90])
        elif 40 <= code <= 47 or code == 49:
            style = replace(style, background=_COLOURS[code - 40] if code < 48 else "")
        elif code in (38, 48):
            kind, *rest = rest  # 5: one of 256; 2: red, green and blue
            count = 1 if kind == 5 else 3
            colour = _palette(rest[0]) if kind == 5 else _hex(*rest[:3])
            rest = rest[count:]
            style = replace(style, **{"colour" if code == 38 else "background": colour})
    return style


def _palette(index: int) -> str:
    """Return a colour of the 256."""
    if index < 16:
        return (_COLOURS + _BRIGHT)[index]
    if index > 231:
        grey = 8 + 10 * (index - 232)
        return _hex(grey, grey, grey)
    levels = (0, 95, 135, 175, 215, 255)
    index -= 16
    return _hex(levels[index // 36], levels[index // 6 % 6], levels[index % 6])


def _hex(red: int, green: int, blue: int) -> str:
    return f"#{red:02x}{green:02x}{blue:02x}"


def still(lines: Sequence[Sequence[tuple[str, Style]]], columns: int, title: str) -> str:
    """Return an SVG of the lines."""
    body = "".join(
        f'<g transform="translate(0 {row * _LINE})">{_row(line)}</g>'
        for row, line in enumerate(lines)
    )
    return _document(columns, len(lines), title, "", body)


def animated(
    frames: Sequence[tuple[float, Sequence[Sequence[tuple[str, Style]]]]],
    columns: int,
    rows: int,
    title: str,
) -> str:
    """Return an SVG that shows frame after frame, and the last one where motion is unwanted.

    Args:
        frames: for how many seconds each is shown, and its lines.
        columns: of the terminal.
        rows: of the terminal.
        title: what a screen reader says, and what stands in the frame's bar.
    """
    total = sum(seconds for seconds, _ in frames)
    known: dict[str, str] = {}
    shown, rules, began = [], [], 0.0
    for number, (seconds, lines) in enumerate(frames):
        uses = []
        for row, line in enumerate(lines):
            drawn = _row(line)
            if drawn:
                name = known.setdefault(drawn, "l" + hashlib.sha256(drawn.encode()).hexdigest()[:8])
                uses.append(f'<use href="#{name}" y="{row * _LINE}"/>')
        shown.append(f'<g class="f" id="f{number}">{"".join(uses)}</g>')
        first, last = 100 * began / total, 100 * (began + seconds) / total
        began += seconds
        steps = f"{first:.3f}%{{visibility:visible}}"
        steps += f"{last:.3f}%,100%{{visibility:hidden}}" if number + 1 < len(frames) else ""
        hidden = "0%{visibility:hidden}" if number else ""
        rules.append(f"@keyframes k{number}{{{hidden}{steps}}}")
        rules.append(f"#f{number}{{animation-name:k{number}}}")
    style = (
        f".f{{visibility:hidden;animation:{total:.1f}s step-end infinite}}{''.join(rules)}"
        f"@media (prefers-reduced-motion:reduce){{.f{{animation:none!important}}"
        f"#f{len(frames) - 1}{{visibility:visible}}}}"
    )
    lines = "".join(f'<g id="{name}">{drawn}</g>' for drawn, name in known.items())
    return _document(columns, rows, title, style, f"<defs>{lines}</defs>{''.join(shown)}")


def _document(columns: int, rows: int, title: str, style: str, body: str) -> str:
    width = round(columns * _CELL + 2 * _EDGE)
    height = rows * _LINE + _HEAD + 2 * _EDGE
    dots = "".join(
        f'<circle cx="{18 + 18 * n}" cy="17" r="5.5" fill="{colour}"/>'
        for n, colour in enumerate(("#e06c75", "#e5c07b", "#98c379"))
    )
    said = html.escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" aria-label="{said}"><title>{said}</title>'
        f"<style>text{{font:14px {_FONT};white-space:pre;fill:{_FOREGROUND}}}"
        f".b{{font-weight:bold}}.d{{opacity:.6}}{style}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="{_BACKGROUND}"/>'
        f'<path d="M0 {_HEAD}V8a8 8 0 0 1 8-8H{width - 8}a8 8 0 0 1 8 8V{_HEAD}z" fill="{_BAR}"/>'
        f'{dots}<text x="{width / 2:.0f}" y="22" text-anchor="middle" class="d">{said}</text>'
        f'<g transform="translate({_EDGE} {_HEAD + _EDGE})">{body}</g></svg>\n'
    )


def _row(line: Sequence[tuple[str, Style]]) -> str:
    """Return a line's runs of equal style, each at its column, so that no font can shift them."""
    drawn = []
    for start, text, style in _runs(line):
        colour, ground = style.colour, style.background
        if style.reverse:
            colour, ground = ground or _BACKGROUND, colour or _FOREGROUND
        x, width = start * _CELL, sum(_width(c) for c in text) * _CELL
        if ground:
            drawn.append(
                f'<rect x="{x:.1f}" width="{width:.1f}" height="{_LINE}" fill="{ground}"/>'
            )
        if not text.strip():
            continue
        classes = " ".join(c for c, on in (("b", style.bold), ("d", style.dim)) if on)
        drawn.append(
            f'<text x="{x:.1f}" y="13.5" textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs"'
            + (f' class="{classes}"' if classes else "")
            + (f' style="fill:{colour}"' if colour else "")
            + f">{html.escape(text, quote=False)}</text>"
        )
    return "".join(drawn)


def _runs(line: Sequence[tuple[str, Style]]) -> Iterator[tuple[int, str, Style]]:
    """Yield runs: column, text, style. Blanks without a background end one; so do wide letters."""
    start, text, last = 0, "", Style()
    for column, (character, style) in enumerate(line):
        gap = text.endswith("  ") and character != " "
        other = style != last or _width(character or "一") != _width(text[-1:] or character)
        if text and character and (other or gap):
            yield start, text.rstrip() if not last.background else text, last
            text = ""
        if character:
            if not text:
                start, last = column, style
            text += character
    if text:
        yield start, text.rstrip() if not last.background else text, last


def _width(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character or " ") in "WF" else 1

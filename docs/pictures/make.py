"""Make the pictures of the documents, each of something that really ran.

``.venv/bin/python docs/pictures/make.py [demo] [top] [chat]``: all of them by default. Takes
root (device nodes of a simulated host), Docker and the images. ``demo`` takes three minutes
on two free cores, and leaves the recording in .cache/pictures; with ``--again`` it is only
drawn again. ``chat`` talks with the model that the demo has made.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(HERE)]

import terminal

from tests.support import own_image

RECORDINGS = ROOT / ".cache" / "pictures"
COLUMNS, ROWS = 96, 26
FRAMES = 14  # of a phase of the demo, at the most
PHASE = re.compile(r"\[\d/\d\] ")
BROWSER = "paddle-stacks-test/browser"
LARGEST = 150_000  # bytes of a picture: pages have to open on slow lines too

Lines = list[list[tuple[str, terminal.Style]]]


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a person's terminal."""
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {**kept, "TERM": "xterm-256color", "COLORTERM": "truecolor", **more}


def demo(*, again: bool) -> None:
    """Record the demo, and draw it: each phase in a few seconds, then its answers."""
    cast = RECORDINGS / "demo.cast"
    if not again:
        shutil.rmtree(ROOT / "models", ignore_errors=True)  # or there is nothing to fetch
        recorded, status = terminal.record(
            ["./inv", "demo"], columns=COLUMNS, rows=ROWS, environment=environment()
        )
        if status:
            sys.exit(f"./inv demo ended with status {status}")
        recorded.save(cast)
        shutil.copyfile(ROOT / "runs" / "demo" / "loss.png", HERE / "loss.png")
    frames = demo_frames(terminal.Recording.load(cast))
    keep("demo.svg", terminal.animated(frames, COLUMNS, ROWS, "./inv demo"))


def demo_frames(recorded: terminal.Recording) -> list[tuple[float, Lines]]:
    """Return the frames: a few of each phase, the table of answers, and the end."""
    screen = terminal.Screen(recorded.columns, recorded.rows)
    phases: list[list[Lines]] = [[]]
    for _, text in recorded.pieces:
        if PHASE.search(text):
            phases.append([])
        screen.write(text)
        shown = [list(line) for line in screen.visible()]
        # In the middle of a redraw the view is erased; what a person sees is drawn whole.
        if not phases[-1] or shown != phases[-1][-1]:
            phases[-1].append(shown)
    frames = []
    for seen in phases:
        step = max(1, len(seen) // FRAMES)
        frames += [(0.45, shown) for shown in seen[step - 1 :: step]]
    plain = ["".join(letter for letter, _ in line) for line in screen.lines]
    table = next(n for n, line in enumerate(plain) if line.lstrip().startswith("question"))
    frames.append((5.0, screen.lines[table : table + recorded.rows]))
    frames.append((8.0, screen.visible()))
    return frames


def top() -> None:
    """Draw ``./inv top`` of a simulated host whose cards are busy."""
    with tempfile.TemporaryDirectory() as folder:
        host = Path(folder) / "host"
        made = ["./inv", "sim-host", "busy-card", "--output", str(host)]
        subprocess.run(made, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        recorded, status = terminal.record(
            ["./inv", "top", "--interval", "0.5"],
            columns=COLUMNS,
            rows=ROWS,
            environment=environment(PADDLE_STACKS_HOST_ROOT=str(host)),
            seconds=6,
        )
    if status:
        sys.exit(f"./inv top ended with status {status}")
    recorded.save(RECORDINGS / "top.cast")
    keep("top.svg", terminal.still(fullest(recorded), COLUMNS, "./inv top"))


def fullest(recorded: terminal.Recording) -> Lines:
    """Return the last screen that has as much on it as any: not one in the middle of a redraw."""
    best: Lines = []
    screen = terminal.Screen(recorded.columns, recorded.rows)
    for _, text in recorded.pieces:
        screen.write(text)
        shown = [list(line) for line in screen.visible()]
        if sum(map(len, shown)) >= sum(map(len, best)):
            best = shown
    while best and not "".join(letter for letter, _ in best[-1]).strip():
        best.pop()
    return best


def chat() -> None:
    """Ask the demo's model on the chat page, in a browser, in light and dark."""
    own_image.build(ROOT / "tests" / "page" / "Dockerfile", BROWSER)
    with serving() as url, tempfile.TemporaryDirectory() as folder:
        line = ["docker", "run", "--rm", "--network", "host", "--volume", f"{HERE}:/code:ro"]
        line += ["--volume", f"{folder}:/pictures", "--entrypoint", "/opt/venv/bin/python"]
        line += [BROWSER, "/code/chat.py", "/usr/bin/chromium", url, "/pictures"]
        subprocess.run(line, check=True)
        for name in ("chat-light.png", "chat-dark.png"):
            check(Path(folder) / name)
            shutil.copyfile(Path(folder) / name, HERE / name)


@contextmanager
def serving() -> Iterator[str]:
    """Serve the model with the demo's adapter; yields the address, and ends the server."""
    line = ["serve", "--model", "smollm2-135m-instruct", "--adapter", "demo", "--port", "8017"]
    command = [sys.executable, "-m", "paddle_stacks.cli", *line]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        for said in process.stderr or ():
            if "ready after" in said:
                break
        yield "http://127.0.0.1:8017/"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def keep(name: str, drawn: str) -> None:
    """Write a picture beside this file."""
    (HERE / name).write_text(drawn, encoding="utf-8")
    check(HERE / name)


def check(path: Path) -> None:
    """Say how large a picture is, and end if it is too large for a page."""
    size = path.stat().st_size
    print(f"{path.name}: {size} bytes", file=sys.stderr)
    if size > LARGEST:
        sys.exit(f"{path.name} is larger than {LARGEST} bytes")


def main() -> None:
    """Make the pictures that are named, or all."""
    reader = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    reader.add_argument("pictures", nargs="*", help="demo, top, chat; all by default")
    reader.add_argument("--again", action="store_true", help="draw the last recording again")
    given = reader.parse_args()
    known = {"demo": lambda: demo(again=given.again), "top": top, "chat": chat}
    RECORDINGS.mkdir(parents=True, exist_ok=True)
    for name in given.pictures or known:
        if name not in known:
            reader.error(f"{name} is none of {', '.join(known)}")
        known[name]()


if __name__ == "__main__":
    main()

"""Starting a program: where its output goes, and what is left when it will not stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from entrypoints import launching
from entrypoints.launching import Nodes
from paddle_stacks.errors import JobError, MachineError, Stopped

# As Paddle's launcher does it: a worker in a session of its own, deaf to SIGTERM.
STUBBORN = """
import pathlib, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"],
    start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
pathlib.Path("worker.part").write_text(str(worker.pid))
pathlib.Path("worker.part").rename("worker")
worker.wait()
"""


def run(program: str, output: Path | None = None) -> None:
    argv = [sys.executable, "-c", program]
    launching.carry_out(argv, os.environ, "the program", Path("logs"), output=output)


def stop_when_there(path: Path) -> None:
    def stop() -> None:
        while not path.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()


def is_running(pid: int) -> bool:
    """Whether a process is there, and not as a zombie that nobody has collected."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_what_does_not_end_is_killed_with_all_that_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching, "KILL_AFTER_SECONDS", 1)
    stop_when_there(Path("worker"))
    with pytest.raises(Stopped) as caught:
        run(STUBBORN)
    assert caught.value.status == 128 + signal.SIGTERM
    worker = int(Path("worker").read_text())
    end = time.monotonic() + 30  # a killed process takes a moment to go
    while is_running(worker) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_running(worker)


def test_its_own_output_is_added_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("logs", "launcher.log")
    run("print('first')", path)
    with pytest.raises(JobError) as caught:
        run("import sys; print('second'); sys.exit('third')", path)
    assert path.read_text() == "first\nsecond\nthird\n"
    assert f"in {path}" in caught.value.problems[0].remedy
    assert capfd.readouterr() == ("", "")


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot start"):
        launching.carry_out(["/nowhere/python"], {}, "it", tmp_path)


def test_the_handlers_are_those_of_before() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    run("pass")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before


@pytest.mark.parametrize(
    ("ranks", "nodes", "launched"),
    [(1, Nodes(), False), (2, Nodes(), True), (1, Nodes(2, "h:1", 0), True)],
)
def test_what_goes_through_the_launcher(ranks: int, nodes: Nodes, launched: bool) -> None:
    assert launching.is_launched(ranks, nodes) is launched

"""Starting a program: where its output goes, and what is left when it will not stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrypoints.runtime import launcher
from entrypoints.runtime.nodes import Nodes
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
    launcher.run_command(argv, os.environ, "the program", Path("logs"), output=output)


def stop_when_there(path: Path) -> None:
    def stop() -> None:
        while not path.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()


def gone(pid: int) -> bool:
    """Whether a killed process goes, which takes a moment; one that nobody collects is gone."""
    stat = Path("/proc", str(pid), "stat")
    for _ in range(1000):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_what_does_not_end_is_killed_with_all_that_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launcher, "KILL_AFTER_SECONDS", 1)
    stop_when_there(Path("worker"))
    with pytest.raises(Stopped) as caught:
        run(STUBBORN)
    assert caught.value.status == 128 + signal.SIGTERM
    assert gone(int(Path("worker").read_text()))


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
        launcher.run_command(["/nowhere/python"], {}, "it", tmp_path)


def test_the_handlers_are_those_of_before() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    run("pass")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before


@pytest.mark.parametrize(
    ("ranks", "nodes", "launched"),
    [(1, Nodes(), False), (2, Nodes(), True), (1, Nodes(2, "h:1", 0), True)],
)
def test_what_goes_through_the_launcher(ranks: int, nodes: Nodes, launched: bool) -> None:
    assert launcher.is_launched(ranks, nodes) is launched


# Paddle's launcher, as far as it matters here: what it is told, what it starts, how it ends.
LAUNCHER = """
import argparse, os, signal, subprocess, sys
made = argparse.ArgumentParser()
for name in ("log_dir", "job_id", "nproc_per_node", "nnodes", "master", "rank"):
    made.add_argument("--" + name)
made.add_argument("script")
made.add_argument("rest", nargs=argparse.REMAINDER)
told = made.parse_args()
workers = []
def stop(signum, frame):
    for worker in workers:
        worker.send_signal(signum)
    sys.exit(signum)
signal.signal(signal.SIGTERM, stop)
if "HANGS" in os.environ:
    signal.pause()
environ = {**os.environ, "NODE": told.rank, "MEET": told.master}
line = [sys.executable, told.script, *told.rest]
workers += [subprocess.Popen(line, env=environ, start_new_session=True)]
sys.exit(workers[0].wait() % 256)
"""

NODE = """
import os, sys
from pathlib import Path
from entrypoints.runtime import launcher
from paddle_stacks.errors import StackError, render
launcher._LOST_SECONDS = launcher._CAUSE_SECONDS = 1
master, rank, *program = sys.argv[1:]
nodes = launcher.Nodes(2, master, int(rank), int(os.environ.get("WAIT", "30")))
try:
    launcher.launch(program, launcher.environment(os.environ), "it", Path("logs" + rank),
        ranks=1, nodes=nodes, job="j")
except StackError as error:
    sys.exit(print(render(error), file=sys.stderr) or error.status)
"""


class TwoNodes:
    """Two nodes in processes of their own, with a stand-in for Paddle's launcher."""

    def __init__(self, folder: Path) -> None:
        launcher = folder / "fake" / "paddle" / "distributed" / "launch" / "__main__.py"
        launcher.parent.mkdir(parents=True)
        launcher.write_text(LAUNCHER)
        (folder / "node.py").write_text(NODE)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.master = f"127.0.0.1:{probe.getsockname()[1]}"
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *programs: str, **environ: str) -> None:
        """Start both, each with a program of its own."""
        root = Path(__file__).parents[2]
        variables = {**os.environ, "PYTHONPATH": f"{root}:{self.folder / 'fake'}", **environ}
        for rank, program in enumerate(programs):
            (self.folder / f"{rank}.py").write_text(program)
            # A file: what outlives a killed node would keep a pipe open.
            with (self.folder / f"stderr-{rank}").open("wb") as stream:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "node.py", self.master, str(rank), f"{rank}.py"],
                        env={**variables, "PADDLE_STACKS_BACKEND": "cpu"},
                        cwd=self.folder,
                        stderr=stream,
                    )
                )

    def when_up(self) -> None:
        """Wait until both programs have made the file ``up-RANK``."""
        end = time.monotonic() + 30
        while not all((self.folder / f"up-{rank}").exists() for rank in (0, 1)):
            assert time.monotonic() < end
            time.sleep(0.01)

    def ends(self) -> list[tuple[int, str]]:
        """Return the status of each, and what it said."""
        statuses = [process.wait(60) for process in self.processes]
        said = [(self.folder / f"stderr-{rank}").read_text() for rank in (0, 1)]
        return list(zip(statuses, said, strict=True))


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoNodes]:
    made = TwoNodes(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


WAITS = """
import os, pathlib, signal
pathlib.Path("up-" + os.environ["NODE"]).write_text(str(os.getpid()))
signal.pause()
"""


def test_two_nodes_meet_and_end_well(two: TwoNodes) -> None:
    program = """
import os, pathlib
names = [name for name in os.environ if name.lower().endswith("_proxy")]
pathlib.Path("said-" + os.environ["NODE"]).write_text(f"{os.environ['MEET']} {sorted(names)}")
"""
    two.start(program, program, HTTP_PROXY="http://p:1", all_proxy="http://p:1", no_proxy="x")
    assert [status for status, _ in two.ends()] == [0, 0]
    first, second = ((two.folder / f"said-{rank}").read_text() for rank in (0, 1))
    assert first == second and first.startswith("127.0.0.1:") and "['no_proxy']" in first
    assert first.split()[0] != two.master


@pytest.mark.parametrize("killed", [0, 1])
def test_a_node_that_is_killed_ends_the_run_of_the_other(two: TwoNodes, killed: int) -> None:
    two.start(WAITS, WAITS)
    two.when_up()
    two.processes[killed].kill()
    status, said = two.ends()[1 - killed]
    assert status == 5
    assert f"error: it ended because node {killed}" in said and "closed its connection" in said
    worker = int((two.folder / f"up-{1 - killed}").read_text())
    assert gone(worker), "it waited for the other, so it was killed"
    os.kill(int((two.folder / f"up-{killed}").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("failed", [0, 1])
def test_a_node_that_fails_ends_the_run_of_the_other(two: TwoNodes, failed: int) -> None:
    programs = [WAITS, WAITS]
    programs[failed] = "raise SystemExit(7)"
    two.start(*programs)
    ends = two.ends()
    assert [status for status, _ in ends] == [5, 5]
    assert "error: it ended with status 7" in ends[failed][1]
    assert f"error: it ended because node {failed}" in ends[1 - failed][1]
    assert "failed with status 7" in ends[1 - failed][1]


def test_both_fail_each_for_its_own_reason(two: TwoNodes) -> None:
    two.start("raise SystemExit(7)", "raise SystemExit(8)")
    (first, said_first), (second, said_second) = two.ends()
    assert (first, second) == (5, 5)
    for own, other, said in ((7, 8, said_first), (8, 7, said_second)):
        assert f"it ended with status {own}" in said or f"failed with status {other}" in said


def test_a_process_that_is_killed_is_told_as_such(two: TwoNodes) -> None:
    two.start("import os; os.makedirs('logs0'); os.kill(os.getpid(), 9)", WAITS)
    status, said = two.ends()[0]
    assert status == 5
    assert "a process was killed by signal 9, perhaps for lack of memory" in said


@pytest.mark.parametrize("told", [0, 1])
def test_a_stop_of_one_node_stops_both(two: TwoNodes, told: int) -> None:
    two.start(WAITS, WAITS)
    two.when_up()
    two.processes[told].send_signal(signal.SIGTERM)
    ends = two.ends()
    assert [status for status, _ in ends] == [143, 143]
    assert f"node {told} (" in ends[1 - told][1]
    assert "received a signal to stop: this node stops too" in ends[1 - told][1]
    assert "lost" not in ends[told][1]


def test_launchers_that_do_not_reach_each_other_do_not_wait_forever(two: TwoNodes) -> None:
    two.start(WAITS, WAITS, HANGS="1", WAIT="4")
    ends = two.ends()
    assert [status for status, _ in ends] != [0, 0]
    assert "error: Paddle's launcher cannot reach that of node 0" in ends[0][1] + ends[1][1]
    assert "all TCP ports from 1024" in ends[0][1] + ends[1][1]

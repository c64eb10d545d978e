"""An engine that is restarted, or dies, under a job that the project's own executor follows."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import completeness
from tests.support.job_containers import IMAGE, ROOT

LINE = (
    "infer", "--model", "tiny", "--input", "prompts.jsonl",
    "--output", f"{completeness.NAME}.jsonl",
    "--decode", "greedy", "--max-new-tokens", "100", "--batch-size", "1",
)  # fmt: skip
PATIENCE = 120  # seconds
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an engine of its own takes root")


class Engine:
    """An engine of the tests' own, beside this machine's.

    It has a network of its own: a daemon without a bridge removes ``docker0`` when it starts,
    which is the other engine's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.address = f"unix://{folder}/sock"

    def start(self) -> None:
        folder = self._folder
        line = ["unshare", "--net", "dockerd", "--host", self.address, "--bridge=none"]
        line += ["--iptables=false", "--ip6tables=false", "--pidfile", f"{folder}/pid"]
        line += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(line, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        while subprocess.run([*self.docker, "info"], capture_output=True, check=False).returncode:
            assert self._process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, "the engine does not answer"
            time.sleep(0.1)

    @property
    def docker(self) -> list[str]:
        return ["docker", "--host", self.address]

    def end(self, signum: int) -> None:
        self._process.send_signal(signum)
        self._process.wait(PATIENCE)

    def load(self, image: str) -> None:
        saving = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
        subprocess.run([*self.docker, "load", "--quiet"], stdin=saving.stdout, check=True)
        assert saving.wait() == 0

    def close(self) -> None:
        listed = subprocess.run(
            [*self.docker, "ps", "--quiet"], capture_output=True, text=True, check=False
        ).stdout.split()
        if listed:
            subprocess.run([*self.docker, "kill", *listed], capture_output=True, check=False)
        self.end(signal.SIGTERM)
        # One that was killed did not take back what it had mounted.
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for point in reversed([p for p in mounted if p.startswith(f"{self._folder}/")]):
            subprocess.run(["umount", point], check=True)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    # Not below pytest's folder: the path of a socket has to be short.
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    own = Engine(folder)
    try:
        own.start()
        own.load(IMAGE.format("infer"))
        yield own
    finally:
        own.close()
        shutil.rmtree(folder)


def infer(engine: Engine, workspace: Path) -> subprocess.Popen[str]:
    """Run the job as a user does, on that engine."""
    return subprocess.Popen(
        [sys.executable, "-m", "paddle_stacks.cli", *LINE],
        cwd=ROOT,
        env={
            **os.environ,
            "DOCKER_HOST": engine.address,
            "PADDLE_STACKS_WORKSPACE": str(workspace),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def under_way(process: subprocess.Popen[str], workspace: Path) -> int:
    """Wait until some answers are there, and return how many."""
    end = time.monotonic() + PATIENCE
    while (count := len(completeness.answers(workspace))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no answers came"
        time.sleep(0.02)
    return count


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_the_engine_is_restarted(
    engine: Engine, fresh: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    undisturbed, workspace = tmp_path / "undisturbed", tmp_path / "workspace"
    for folder in (undisturbed, workspace):
        shutil.copytree(fresh, folder)
    first = infer(engine, undisturbed)
    _, said = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, said
    wanted = completeness.answers(undisturbed)

    job = infer(engine, workspace)
    count = under_way(job, workspace)
    engine.end(signum)
    _, said = job.communicate(timeout=PATIENCE)
    engine.start()
    # An engine that stops tells its containers to; one that dies leaves them to the next.
    assert job.returncode in ((143, 3) if signum == signal.SIGTERM else (3,)), said
    assert "Traceback" not in said, said
    if job.returncode == 3:
        assert "fix: " in said, said
    for name, found in completeness.answers(workspace).items():
        assert found == wanted[name]
    again = infer(engine, workspace)
    _, said = again.communicate(timeout=PATIENCE)
    if again.returncode == 2:
        # A container outlives an engine that dies, and the job may have come to its end.
        assert signum == signal.SIGKILL and "the output exists" in said, said
    else:
        assert again.returncode == 0, said
        assert "answers already exist" in said, said
    assert completeness.answers(workspace) == wanted
    assert len(wanted) > count
    assert completeness.left_over(workspace) == []

"""A machine without a network: a separate engine in a network namespace without routes.

The namespace has ``lo`` and the engine's bridge. The engine starts with an empty folder, without
images.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 60

# What `ip link set lo up` does, without the package that has it; then the engine's turn.
_ENTER = """
import fcntl, os, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
os.execvp(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Machine:
    """The machine without a network.

    Args:
        pid: of the engine, for its namespace.
        socket: of the engine.
        log: of the engine.
    """

    pid: int
    socket: Path
    log: Path

    def command(self, *words: str | Path) -> list[str]:
        """Return a command line that runs on the machine."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *map(str, words)]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a command on the machine: its engine, and no proxies."""
        ways = ("PIP_", "UV_", "HTTP", "http", "PADDLE_STACKS_", "DOCKER_")
        variables = {key: value for key, value in os.environ.items() if not key.startswith(ways)}
        return {**variables, "DOCKER_HOST": f"unix://{self.socket}"}

    def run(self, *words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine; fail with its output if it fails."""
        done = self.attempt(*words, cwd=cwd)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def attempt(
        self, *words: str | Path, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine."""
        return subprocess.run(
            self.command(*words),
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@contextmanager
def closed_machine() -> Iterator[Machine]:
    """Yield a machine without a network; it is removed afterwards."""
    # Not pytest's folder: its name is too long for containerd's sockets.
    home = Path(tempfile.mkdtemp(prefix="closed-"))
    socket, log = home / "docker.sock", home / "dockerd.log"
    engine = ["dockerd", f"--data-root={home / 'data'}", f"--exec-root={home / 'run'}"]
    # A separate network, so that addresses of the other engine cannot be reached.
    engine += ["--bip=10.213.0.1/24"]
    engine += [f"--pidfile={home / 'pid'}", f"--host=unix://{socket}"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-c", _ENTER, *engine],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    machine = Machine(process.pid, socket, log)
    try:
        _wait(machine, process)
        yield machine
        left = machine.run("docker", "ps", "--quiet").stdout.split()
        assert not left, f"containers are still running: {left}"
    finally:
        process.terminate()
        process.wait(_SECONDS)
        _unmount(home)
        shutil.rmtree(home)


def _wait(machine: Machine, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS
    while machine.attempt("docker", "version").returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no engine: {machine.log.read_text()[-2000:]}")
        time.sleep(0.2)


def _unmount(home: Path) -> None:
    """Unmount the mounts that a terminated engine leaves below its folders."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    for line in reversed(mounts):
        where = line.split()[1]
        if where.startswith(f"{home}/"):
            subprocess.run(["umount", "--lazy", where], check=False)

"""Containers whose first process has imported Paddle and forks a child for each job.

Most of a small job's time is a container's start and the import of Paddle. A test that is not
about these runs its job in such a fork (warm_server.py): the same image, code, arguments,
user, signals and exit status.
"""

from __future__ import annotations

import array
import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.warm_server import HOST

_HERE = Path(__file__).parent
_SOCKETS = "/run/warm"
_RIGHTS = ("SYS_ADMIN", "NET_ADMIN", "SETUID", "SETGID", "SETPCAP", "KILL", "DAC_OVERRIDE")
_MODULES = {
    "train": ("paddlenlp.utils.log", "paddlenlp.transformers", "paddlenlp.peft",
              "paddlenlp.trainer", "matplotlib.pyplot"),
    "infer": ("paddlenlp.utils.log", "paddlenlp.transformers", "fastapi"),
}  # fmt: skip
"""The slow imports of an image's jobs, besides Paddle."""
_SHARED = Path(tempfile.gettempdir()).resolve()
_started: dict[str, WarmContainer] = {}
_lock = threading.Lock()


class WarmProcess:
    """A job in a fork, as far as :class:`subprocess.Popen` is used of one."""

    def __init__(self, connection: socket.socket, stdin: int | None, stdout: int, stderr: int):
        self.stdin = None if stdin is None else os.fdopen(stdin, "w")
        self.stdout = os.fdopen(stdout)
        self.stderr = os.fdopen(stderr)
        self._connection = connection
        self._status: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._await_status, daemon=True).start()

    def _await_status(self) -> None:
        with self._connection.makefile() as lines:
            answer = lines.readline()
        # A server that is gone has taken its jobs with it.
        self._status = int(answer) if answer else 128 + signal.SIGKILL
        self._ended.set()

    def poll(self) -> int | None:
        """Return the exit status; None while the job runs."""
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status at the job's end.

        Raises:
            subprocess.TimeoutExpired: it has not ended by then.
        """
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("a job", timeout or 0)
        assert self._status is not None
        return self._status

    def send_signal(self, number: int) -> None:
        """Signal the job; one that has ended is left alone."""
        if self._status is None:
            try:
                self._connection.sendall(b"%d\n" % number)
            except OSError:
                self.wait(5)


class WarmContainer:
    """A container that forks jobs.

    Args:
        image: its name, as ``paddle-stacks/train:cpu``.
        kind: which image it is, ``train`` or ``infer``.
        options: more of ``docker run``.
    """

    def __init__(self, image: str, kind: str, options: Sequence[str] = ()) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="paddle-stacks-warm-"))
        command = ["docker", "run", "--rm", "--interactive", "--read-only", "--tmpfs", "/tmp"]
        command += ["--name", f"paddle-stacks-test-warm-{uuid.uuid4().hex[:12]}"]
        command += ["--user", "0:0", "--cap-drop", "ALL", "--network", "host"]
        command += [word for right in _RIGHTS for word in ("--cap-add", right)]
        command += [
            "--security-opt",
            "apparmor=unconfined",
            "--env",
            "PYTHONPATH=/opt/paddle-stacks",
        ]
        command += ["--volume", f"{_SHARED}:{HOST}", "--volume", f"{self._folder}:{_SOCKETS}"]
        command += ["--volume", f"{_HERE}:/srv/support:ro", "--entrypoint", "python", *options]
        command += [image, "/srv/support/warm_server.py", f"{_SOCKETS}/socket", *_MODULES[kind]]
        # It ends when this process does, whatever ends that: its standard input is closed then.
        self._docker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._docker.stdout is not None
        ready = self._docker.stdout.readline()
        assert ready == "ready\n", f"{image} did not start: {ready}"

    def start(
        self,
        argv: Sequence[str],
        workspace: Path,
        *,
        with_stdin: bool = False,
        network: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> WarmProcess:
        """Start a job.

        Args:
            argv: the job and its arguments, or ``python FILE ARGUMENT …``.
            workspace: what it has as ``/workspace``.
            with_stdin: whether its standard input is a pipe, or closed.
            network: whether it has this machine's network, or only a loopback of its own.
            environ: variables beyond the image's own.
        """
        request = {
            "argv": list(argv),
            "workspace": str(workspace.resolve().relative_to(_SHARED)),
            "user": [os.getuid(), os.getgid()],
            "environ": dict(environ or {}),
            "network": network,
        }
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._folder / "socket"))
        stdin = os.pipe() if with_stdin else (os.open(os.devnull, os.O_RDONLY), None)
        (out, stdout), (err, stderr) = os.pipe(), os.pipe()
        handed = array.array("i", [stdin[0], stdout, stderr])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handed)]
        connection.sendmsg([json.dumps(request).encode() + b"\n"], ancillary)
        for descriptor in handed:
            os.close(descriptor)
        return WarmProcess(connection, stdin[1], out, err)

    def close(self) -> None:
        """End the container, and all its jobs."""
        assert self._docker.stdin is not None
        self._docker.stdin.close()
        self._docker.wait()
        shutil.rmtree(self._folder)


def is_reachable(workspace: Path) -> bool:
    """Return whether a workspace is below the folder that warm containers have."""
    return workspace.resolve().is_relative_to(_SHARED)


def container(kind: str, backend: str = "cpu", options: Sequence[str] = ()) -> WarmContainer:
    """Return this process's warm container of an image, started at its first use."""
    image = f"paddle-stacks/{kind}:{backend}"
    with _lock:
        if image not in _started:
            _started[image] = WarmContainer(image, kind, options)
        return _started[image]


@atexit.register
def close_all() -> None:
    """End all containers of this process."""
    while _started:
        _started.popitem()[1].close()

"""Run jobs in ``paddle-stacks/<image>:cpu``: in a warm container's fork, or with ``docker run``.

A fork (warm.py) saves the start of a container and the import of Paddle. Tests of the start, of
signals to the first process, of permissions and of limits use ``docker run``. For development,
``PADDLE_STACKS_TEST_PYTHON`` names an interpreter with the images' packages, which runs jobs
without a container.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paddle_stacks import access, settings
from paddle_stacks.errors import StackError
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import mounts
from paddle_stacks.request import from_words
from tests.support import warm
from tests.support.hold_at import GO_ON

REPOSITORY = Path(__file__).parents[2]
PYTHON = os.environ.get("PADDLE_STACKS_TEST_PYTHON")
TIMEOUT = 600  # seconds, for jobs that take ten, or three minutes on a machine that is busy
SERVE_PORT = 8000
HERE = Path(__file__).parent
SUPPORT = "/srv/support"
"""The mount of this folder in the containers of tests."""
# A thread that waits for work leaves its core after a millisecond, and not after 200: other
# jobs of the tests want it. The models of most tests are too small for two threads to help.
SHARING = ("--env", "KMP_BLOCKTIME=1", "--env", "OMP_NUM_THREADS=1")


@dataclass(frozen=True)
class Finished:
    status: int
    stdout: str
    stderr: str


@dataclass
class Running:
    """A running job: its log, and a method to signal it."""

    process: subprocess.Popen[str] | warm.WarmProcess
    container: str | None
    lines: list[str] = field(default_factory=list)
    stdout: list[str] = field(default_factory=list)
    check_workspace: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stderr, self.lines), (self.process.stdout, self.stdout))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream, into: list[str]) -> None:
        for line in stream:
            into.append(line)

    def wait_for(self, text: str, timeout: float = TIMEOUT) -> str:
        """Wait for the first log line that contains ``text``, and return it."""
        seen = 0
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            while seen < len(self.lines):
                if text in self.lines[seen]:
                    return self.lines[seen]
                seen += 1
            if self.process.poll() is not None and seen == len(self.lines):
                break
            time.sleep(0.005)
        raise AssertionError(f"{text!r} did not come:\n{''.join(self.lines)}")

    def send(self, signum: int) -> None:
        if self.container is None:
            self.process.send_signal(signum)  # to a fork, or a process of this machine
            return
        name = signal.Signals(signum).name
        subprocess.run(["docker", "kill", "--signal", name, self.container], check=True)

    def url(self) -> str:
        """Wait until a server is ready, and return its address."""
        ready = self.wait_for("ready after ")
        if self.container is None:
            return next(word for word in ready.split() if word.startswith("http")).rstrip("/")
        command = ["docker", "port", self.container, str(SERVE_PORT)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return "http://" + output.splitlines()[0]

    def wait(self, timeout: float = TIMEOUT) -> Finished:
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            if self.container is None and PYTHON is None:
                self.send(signal.SIGUSR1)  # a fork then shows its stack
                time.sleep(1)
            self.send(signal.SIGKILL)
            self.process.wait()
            log = "".join(self.lines)
            raise AssertionError(f"it has not ended after {timeout} s:\n{log}") from None
        for reader in self._readers:
            reader.join()
        status = 128 - status if status < 0 else status
        self.check_workspace()
        return Finished(status, "".join(self.stdout), "".join(self.lines))


class Runner:
    """Runs jobs: ``job(argv, workspace)`` runs one to its end, ``job.start`` starts one.

    Args:
        forks: run jobs in warm containers if possible, instead of one container per job.
    """

    def __init__(self, *, forks: bool = True) -> None:
        self._forks = forks
        self._started: list[Running] = []
        self._writable: dict[Path, set[str]] = {}

    def __call__(
        self,
        argv: Sequence[str],
        workspace: Path,
        timeout: float = TIMEOUT,
        stdin: str | None = None,
    ) -> Finished:
        return self.start(argv, workspace, stdin).wait(timeout)

    def start(
        self,
        argv: Sequence[str],
        workspace: Path,
        stdin: str | None = None,
        hold_at: str | None = None,
    ) -> Running:
        """Start a job.

        Args:
            argv: the job and its arguments, or ``python FILE ARGUMENT …``.
            workspace: what it has as ``/workspace``.
            stdin: its standard input, which is closed without it.
            hold_at: the line of its log at which it waits to be signalled (hold_at.py).
        """
        if hold_at is not None:
            argv = holding(argv, hold_at)
        container = None
        writable = self._writable.setdefault(workspace, {GO_ON})
        writable |= {path.name for path in workspace.iterdir()} | writable_names(argv, workspace)
        process: subprocess.Popen[str] | warm.WarmProcess
        if PYTHON is None and self._forks and is_warm(argv, workspace):
            process = fork(argv, workspace, with_stdin=stdin is not None)
        else:
            command, container = _container(argv, workspace) if PYTHON is None else _local(argv)
            if container is not None and stdin is not None:
                command.insert(2, "--interactive")
            process = subprocess.Popen(
                command,
                cwd=workspace,
                env=_environment(),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        if process.stdin is not None and stdin is not None:
            with process.stdin:
                process.stdin.write(stdin)

        def check_workspace() -> None:
            extra = {path.name for path in workspace.iterdir()} - writable
            # A plan makes the rest of the workspace read-only, so such a job would fail.
            assert argv[0] not in JOBS or not extra, f"{argv} wrote {sorted(extra)}"

        self._started.append(Running(process, container, check_workspace=check_workspace))
        return self._started[-1]

    def close(self) -> None:
        for running in self._started:
            if running.process.poll() is None:
                running.send(signal.SIGKILL)
                running.process.wait()


def writable_names(argv: Sequence[str], workspace: Path) -> set[str]:
    """Return the names in a workspace's root that a job may write to, by its plan."""
    names = {*mounts.FOLDERS, mounts.STAGE}
    with contextlib.suppress(StackError):  # arguments that the job refuses
        paths = mounts.Access()
        if argv[0] in JOBS:
            paths = access.of(from_words(argv[0], argv[1:], workspace, "cpu"), workspace)
        names |= {Path(path).parts[0] for path in (*paths.writes, *paths.outputs)}
    return names


def image_of(argv: Sequence[str]) -> str:
    """Return the image for a job or another command of the tests."""
    argv = argv[3:] if argv[:2] == ["python", f"{SUPPORT}/hold_at.py"] else argv
    return JOBS[argv[0]].image if argv[0] in JOBS else "train"


def holding(argv: Sequence[str], text: str) -> list[str]:
    """Return the command that runs a job and pauses it at a line of its log."""
    folder = SUPPORT if PYTHON is None else str(HERE)
    return ["python", f"{folder}/hold_at.py", text, *argv]


def is_warm(argv: Sequence[str], workspace: Path) -> bool:
    """Return whether a fork can run it; a server needs its own container to publish a port."""
    is_script = argv[0] == "python" and argv[1].endswith(".py")
    if argv[0] == "serve" or not (is_script or argv[0] in JOBS):
        return False
    return warm.is_reachable(workspace)


def fork(
    argv: Sequence[str],
    workspace: Path,
    *,
    image: str | None = None,
    with_stdin: bool = False,
    environ: Mapping[str, str] | None = None,
) -> warm.WarmProcess:
    """Start a job in a fork.

    Args:
        argv: the job and its arguments, or ``python FILE ARGUMENT …``.
        workspace: mounted at ``/workspace``.
        image: the name of the image, if it is not the job's.
        with_stdin: whether its standard input is a pipe instead of closed.
        environ: more variables. A job with any, and a download, has this machine's network;
            other jobs have a loopback only.
    """
    container = warm.container(image or image_of(argv), options=[*SHARING, *_trusted()])
    network = argv[0] == "fetch" or bool(environ)
    return container.start(argv, workspace, with_stdin=with_stdin, network=network, environ=environ)


def _container(argv: Sequence[str], workspace: Path) -> tuple[list[str], str]:
    image = image_of(argv)
    name = f"paddle-stacks-test-{uuid.uuid4().hex[:12]}"
    docker = ["docker", "run", "--rm", "--name", name, "--read-only", "--tmpfs", "/tmp"]
    docker += SHARING
    docker += ["--user", f"{os.getuid()}:{os.getgid()}", "--cap-drop", "ALL"]
    docker += ["--security-opt", "no-new-privileges", "-v", f"{workspace}:/workspace"]
    docker += ["-v", f"{HERE}:{SUPPORT}:ro"]
    if argv[0] == "fetch":
        docker += _trusted()
    if argv[0] == "serve":
        docker += ["--publish", f"127.0.0.1::{SERVE_PORT}"]  # on any free port
    return [*docker, f"paddle-stacks/{image}:cpu", *argv], name


def _trusted() -> list[str]:
    """Return the mount of the machine's CA bundle, for `fetch`, the only job with a network."""
    bundle = settings.load(REPOSITORY).ca_bundle
    if bundle is None:
        return []
    inside = "/run/secrets/ca_bundle"
    mount = ["-v", f"{bundle}:{inside}:ro"]
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"):
        mount += ["-e", f"{variable}={inside}"]
    return mount


def _local(argv: Sequence[str]) -> tuple[list[str], None]:
    assert PYTHON is not None
    code = "import sys, paddle_stacks_startup; from entrypoints.__main__ import main"
    return [PYTHON, "-c", f"{code}; sys.exit(main(sys.argv[1:]))", *argv], None


def _environment() -> dict[str, str]:
    if PYTHON is None:
        return dict(os.environ)
    paths = f"{REPOSITORY}:{REPOSITORY / 'images' / 'framework'}"
    binaries = f"{Path(PYTHON).parent}:{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": paths, "PATH": binaries, "PYTHONUNBUFFERED": "1"}

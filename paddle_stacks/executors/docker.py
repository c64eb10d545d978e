"""Carries a plan out on a Docker engine: starts the container, follows it, ends it.

Standard output of the container is the job's result and is copied through byte
by byte. Standard error is read as lines; what a job reports in them goes to the
view and, as plain lines, to the run's log.
"""

from __future__ import annotations

import codecs
import os
import queue
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from paddle_stacks.errors import (
    JobError,
    MachineError,
    Problem,
    StackError,
    Stopped,
    printable,
)
from paddle_stacks.executors.record import RunRecord
from paddle_stacks.jobs.events import parse
from paddle_stacks.live import View, view_for
from paddle_stacks.ownership import hand_over
from paddle_stacks.plan import Plan, mounts
from paddle_stacks.plan.show import LOG_DRIVER, LOG_OPTIONS, docker_arguments, tmpfs_options

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

__all__ = ["Lines", "as_text", "attach", "container_options", "execute"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK_SECONDS = 0.125
# Bytes of a line without an end that are kept in memory.
_MAX_LINE = 1 << 20
_KILLED = 128 + signal.SIGKILL


def execute(
    plan: Plan,
    client: DockerClient,
    *,
    record: RunRecord | None = None,
    view: View | None = None,
    output: IO[bytes] | None = None,
) -> int:
    """Run the plan's container to its end and return the job's exit status.

    SIGINT, SIGTERM and SIGHUP ask the job to save and leave; it is killed when
    the plan's grace time is over, or at once by a second signal. The container
    is removed in every case.

    Args:
        plan: what to run.
        client: the engine.
        record: what keeps the plan and the job's lines.
        view: what shows the job; by default what suits standard error.
        output: where the job's standard output goes; by default to ours.

    Raises:
        MachineError: there is no such image, the engine cannot start the
            container, or it went away.
        JobError: the job was killed for want of memory.
        Stopped: a signal stopped the job.
    """
    import docker.errors
    import requests.exceptions

    view = view or view_for(plan.job)
    run = _Run(plan, view, output or sys.stdout.buffer, record)
    try:
        with ExitStack() as stack:
            stack.enter_context(_signals(run.stops))
            stack.enter_context(_workspace(plan))
            secrets = stack.enter_context(_written_secrets(plan))
            container = _create(plan, client, secrets)
            stack.callback(_remove, container)
            stack.callback(view.close, done=False)
            status = run.follow(container)
            view.close(done=status == 0)
            return status
    except BrokenPipeError as error:
        # `… | head`: nobody reads the result any more. The interpreter would
        # complain about the same pipe once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Stopped(
            signal.SIGPIPE,
            "the reader of standard output is gone",
            "write the output to a file: `> FILE`",
        ) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise _engine_went_away(plan, error) from error


def attach(plan: Plan, entrypoint: str = "") -> int:
    """Run the plan's container on our standard streams and return its exit status.

    The engine's own client does it: it knows about raw mode and window sizes.

    Args:
        plan: what to run.
        entrypoint: the program to run in place of the image's; empty for that.

    Raises:
        MachineError: the client is not installed.
    """
    streams = ["--interactive", *(["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else [])]
    streams += ["--entrypoint", entrypoint] if entrypoint else []
    words = [word for group in docker_arguments(plan, attach=streams) for word in group]
    # The client hands Ctrl-C to the job; it is not ours to die of it before the job has.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _workspace(plan):
            return _run_client(words, terminal="--tty" in streams)
    except FileNotFoundError as error:
        raise MachineError(
            "the docker command is not installed, and a job that reads standard input needs it",
            remedy="install the engine's client, or give the input as a file",
        ) from error
    finally:
        signal.signal(signal.SIGINT, before)


def _run_client(words: Sequence[str], *, terminal: bool) -> int:
    """Run the engine's client; its output goes to a terminal of ours only by way of us.

    Args:
        words: the command line.
        terminal: whether the container has a terminal of its own, which draws on ours.
    """
    import subprocess

    sinks = [None if terminal or not s.isatty() else s for s in (sys.stdout, sys.stderr)]
    pipes = [None if sink is None else subprocess.PIPE for sink in sinks]
    with subprocess.Popen(
        words, stdout=pipes[0], stderr=pipes[1], preexec_fn=_mind_interrupts
    ) as client:
        readers = [
            threading.Thread(target=_copy_printable, args=(source, sink.buffer), daemon=True)
            for source, sink in zip((client.stdout, client.stderr), sinks, strict=True)
            if source is not None and sink is not None
        ]
        for reader in readers:
            reader.start()
        status = client.wait()
        for reader in readers:
            reader.join()
    return status


def _copy_printable(source: IO[bytes], sink: IO[bytes]) -> None:
    filtered = PrintableStream(sink)
    while chunk := os.read(source.fileno(), 1 << 16):
        filtered.write(chunk)
    filtered.finish()


@contextmanager
def _workspace(plan: Plan) -> Iterator[None]:
    """Make the folders that a plan mounts, and move its outputs into the workspace's root."""
    mounts.make_sources(plan.mounts, plan.workspace, plan.user)
    try:
        yield
    finally:
        mounts.publish(plan.workspace, plan.outputs)


class PrintableStream:
    """Copies UTF-8 text to a terminal with its control characters escaped.

    What a job prints is somebody else's: a model's answer, a name in a data set. A terminal
    would take escape sequences in it for commands, as to set its title or to answer.

    Args:
        sink: where it goes.
    """

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, chunk: bytes) -> None:
        """Write what of it is whole characters."""
        self._put(self._decoder.decode(chunk))

    def finish(self) -> None:
        """Write what is left of a character that was cut off."""
        self._put(self._decoder.decode(b"", final=True))

    def _put(self, text: str) -> None:
        self._sink.write(printable(text).encode())
        self._sink.flush()


def _mind_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def container_options(plan: Plan, secrets: dict[str, str]) -> dict[str, Any]:
    """Return what docker-py's ``containers.create`` gets.

    Args:
        plan: what to run.
        secrets: for each secret that the executor wrote, its name and its file.
    """
    from docker.types import LogConfig, Mount, Ulimit

    sources = {secret.name: secret.source or secrets[secret.name] for secret in plan.secrets}
    mounts = [Mount(m.target, m.source, "bind", read_only=m.read_only) for m in plan.mounts]
    mounts += [Mount(s.target, sources[s.name], "bind", read_only=True) for s in plan.secrets]
    return {
        "image": plan.image,
        "command": list(plan.argv),
        "name": plan.name,
        "user": plan.user,
        "network_mode": plan.network,
        "environment": dict(plan.environment),
        "mounts": mounts,
        "read_only": plan.read_only,
        "privileged": plan.privileged,
        "ipc_mode": plan.ipc or None,
        "cap_add": list(plan.cap_add),
        "cap_drop": list(plan.cap_drop),
        "security_opt": list(plan.security_opt),
        "tmpfs": {"/tmp": tmpfs_options(plan)},
        "shm_size": f"{plan.shm_mib}m",
        "mem_limit": f"{plan.memory_mib}m" if plan.memory_mib else None,
        "pids_limit": plan.pids or None,
        "devices": [f"{device.source}:{device.target}:rwm" for device in plan.devices],
        "group_add": list(plan.groups),
        "ulimits": [Ulimit(name=name, soft=n, hard=n) for name, n in plan.ulimits.items()],
        "labels": dict(plan.labels),
        "log_config": LogConfig(type=LOG_DRIVER, config=dict(LOG_OPTIONS)),
        "ports": {f"{port.number}/tcp": (port.address, port.number) for port in plan.ports},
    }


@dataclass
class _Run:
    """One container, from its start to its end.

    Args:
        plan: what is run.
        view: what shows the job.
        output: where its standard output goes.
        record: what keeps its lines.
        stops: the signals that have come, in order; the handler appends to it.
    """

    plan: Plan
    view: View
    output: IO[bytes]
    record: RunRecord | None
    stops: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        # To a file or a pipe the result goes as it is.
        self._printable = PrintableStream(self.output) if self.output.isatty() else None

    def follow(self, container: Container) -> int:
        """Start the container, follow it to its end and return its exit status."""
        news: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1024)
        frames = container.attach(stdout=True, stderr=True, stream=True, demux=True)
        container.start()
        # A thread of its own reads, so that this one is free for signals and the clock.
        threading.Thread(target=_read, args=(container, frames, news), daemon=True).start()
        lines = Lines()
        heard, deadline = 0, float("inf")
        while True:
            if len(self.stops) > heard:
                deadline = self._stop(container, first=heard == 0)
                heard = len(self.stops)
            if time.monotonic() > deadline:
                self.view.line(f"the job did not leave in {self.plan.grace_seconds} s: killing it")
                deadline = self._kill(container)
            try:
                kind, value = news.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                self.view.tick()
                continue
            if kind == "stdout":
                self._result(value)
            elif kind == "stderr":
                for line in lines.feed(value):
                    self._line(line)
            elif kind == "fault":
                raise value
            else:
                if self._printable is not None:
                    self._printable.finish()
                for line in lines.rest():
                    self._line(line)
                return self._status(value)

    def _stop(self, container: Container, *, first: bool) -> float:
        """Pass a signal on and return the time at which patience ends."""
        if not first:
            return self._kill(container)
        self.view.line(
            f"stopping: the job has {self.plan.grace_seconds} s to save and leave"
            " (once more to kill it)"
        )
        _send(container, signal.SIGTERM)
        return time.monotonic() + self.plan.grace_seconds

    def _kill(self, container: Container) -> float:
        _send(container, signal.SIGKILL)
        return float("inf")

    def _result(self, chunk: bytes) -> None:
        if _same_terminal(self.output):
            # The result and a live view cannot share the screen.
            self.view.close(done=True)
        if self._printable is not None:
            self._printable.write(chunk)
            return
        self.output.write(chunk)
        self.output.flush()

    def _line(self, line: str) -> None:
        event = parse(line)
        line = printable(line)
        if event:
            self.view.event(event)
        else:
            self.view.line(line)
        if self.record:
            self.record.write(event.plain() if event else line)

    def _status(self, state: dict[str, Any]) -> int:
        """Return the exit status, or raise what the container's last state means."""
        status = int(state["ExitCode"])
        if self.stops and status > 128:
            raise Stopped(self.stops[0], f"{self.plan.job} was stopped")
        if state["OOMKilled"] or status == _KILLED:
            sure = "ran out of memory and" if state["OOMKilled"] else "probably ran out of memory:"
            raise JobError(
                f"{self.plan.job} {sure} was killed",
                remedy="make the batch or the sequence length smaller, or free memory",
            )
        return status


class Lines:
    """Cuts a stream of bytes into lines of text."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that the chunk completes; one that is too long is cut into several."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            whole.append(self._rest)
            self._rest = b""
        return [as_text(line) for line in whole]

    def rest(self) -> list[str]:
        """Return what came after the last end of line, if anything did."""
        return [as_text(self._rest)] if self._rest else []


def as_text(line: bytes) -> str:
    """Return a line that a container has written as a person sees it."""
    # A carriage return overwrites the line on a terminal: what came last counts.
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", errors="replace")


def _read(container: Container, frames: Any, news: queue.Queue[tuple[str, Any]]) -> None:
    """Put what the container writes into the queue, and how it ended after that."""
    try:
        for stdout, stderr in frames:
            if stdout:
                news.put(("stdout", stdout))
            if stderr:
                news.put(("stderr", stderr))
        container.wait()
        container.reload()
        news.put(("end", container.attrs["State"]))
    except Exception as error:  # whatever it is, the main thread raises it
        news.put(("fault", error))


def _create(plan: Plan, client: DockerClient, secrets: dict[str, str]) -> Container:
    import docker.errors

    try:
        return client.containers.create(**container_options(plan, secrets))
    except docker.errors.ImageNotFound as error:
        raise MachineError(f"there is no image {plan.image}", remedy=plan.build_command) from error
    except docker.errors.APIError as error:
        if problem := _damaged_image(plan, str(error.explanation)):
            raise MachineError(problem) from error
        raise MachineError(
            f"the engine refuses the container: {error.explanation}",
            where=plan.image,
            remedy="see the plan (--dry-run); ./inv doctor looks at the machine",
        ) from error


# What an engine says when a layer or a blob of an image is missing or damaged in its store, with
# Docker's own image store (overlay2) and with containerd's.
_DAMAGED = re.compile(
    r"layer does not exist"
    r"|(mount|overlay|readlink|rw layer|snapshot).*"
    r"(no such file|does not exist|not found|invalid argument|input/output error)"
    r"|(content|blob|digest).*not found"
    r"|structure needs cleaning|unexpected commit digest",
    re.IGNORECASE | re.DOTALL,
)


def _damaged_image(plan: Plan, explanation: str) -> Problem | None:
    """Return how to repair the engine's store, if that is what it complains about.

    A build would take the damaged layer from the cache again, so the images and the cache go
    first; images of ours share their layers.
    """
    if not _DAMAGED.search(explanation):
        return None
    images = "$(docker images --quiet --filter reference='paddle-stacks/*')"
    return Problem(
        f"a layer of the image is damaged in the engine's store: {explanation}",
        plan.image,
        f"docker image rm --force {images}; docker builder prune --all --force; "
        f"{plan.build_command}",
    )


def _send(container: Container, signum: int) -> None:
    import docker.errors

    try:
        container.kill(signal=signum)
    except docker.errors.APIError as error:
        # 404 and 409: it has ended in the meantime, which is what was wanted.
        if error.status_code not in (404, 409):
            raise


def _remove(container: Container) -> None:
    import docker.errors

    try:
        container.remove(force=True)
    except docker.errors.APIError as error:
        if error.status_code not in (404, 409):
            raise


def _engine_went_away(plan: Plan, error: Exception) -> StackError:
    import docker.errors

    if isinstance(error, docker.errors.APIError):
        if problem := _damaged_image(plan, str(error.explanation)):
            return MachineError(problem)
        return MachineError(
            f"the engine reports: {error.explanation}",
            where=plan.name,
            remedy="journalctl -u docker says more; ./inv doctor looks at the machine",
        )
    return MachineError(
        f"the engine went away while {plan.job} ran",
        where=f"container {plan.name}",
        remedy=f"when it is back, `docker ps --all --filter name={plan.name}` shows whether the"
        f" job goes on, `docker logs --follow {plan.name}` what it says,"
        f" and `docker rm --force {plan.name}` ends it",
    )


@contextmanager
def _signals(stops: list[int]) -> Iterator[None]:
    """Append the signals that would end this process to the list instead."""

    def heard(signum: int, frame: FrameType | None) -> None:
        stops.append(signum)

    before = {signum: signal.signal(signum, heard) for signum in _SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _written_secrets(plan: Plan) -> Iterator[dict[str, str]]:
    """Yield the files of the secrets that exist as content only; they go when the run ends."""
    with tempfile.TemporaryDirectory(prefix="paddle-stacks-") as folder:
        written = {}
        for secret in plan.secrets:
            if secret.source is None:
                path = Path(folder, secret.name)
                path.touch(mode=0o600)
                path.write_text(secret.content, encoding="utf-8")
                hand_over(path, plan.user)
                written[secret.name] = str(path)
        yield written


def _same_terminal(output: IO[bytes]) -> bool:
    return output.isatty() and sys.stderr.isatty()

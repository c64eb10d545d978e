"""Run a plan on a Docker engine: start the container, follow it, stop it.

The container's standard output is the job's result and is copied unchanged. Standard
error is read as lines; the events in it go to the view and, as plain lines, to the
run's log.
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
# The most bytes of an unfinished line that are buffered.
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

    SIGINT, SIGTERM and SIGHUP make the job save and exit; it is killed after the plan's
    grace period, or immediately by a second signal. The container is always removed.

    Args:
        plan: the plan.
        client: the engine.
        record: writes the plan and the job's log; None for none.
        view: displays the job; default: suitable for standard error.
        output: destination of the job's standard output; default: standard output.

    Raises:
        MachineError: the image does not exist, the engine cannot start the container, or
            the connection to the engine was lost.
        JobError: the job was killed because it ran out of memory.
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
        # `… | head`: the reader has exited. Redirect standard output, or the interpreter
        # would report the broken pipe again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Stopped(
            signal.SIGPIPE,
            "the reader of standard output has exited",
            "write the output to a file: `> FILE`",
        ) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise _engine_error(plan, error) from error


def attach(plan: Plan, entrypoint: str = "") -> int:
    """Run the plan's container on our standard streams and return its exit status.

    This uses the docker command, which handles raw mode and window sizes.

    Args:
        plan: the plan.
        entrypoint: the program to run instead of the image's entry point; empty for none.

    Raises:
        MachineError: the client is not installed.
    """
    streams = ["--interactive", *(["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else [])]
    streams += ["--entrypoint", entrypoint] if entrypoint else []
    words = [word for group in docker_arguments(plan, attach=streams) for word in group]
    # The client passes Ctrl-C to the job; this process must not exit before the job.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _workspace(plan):
            return _run_client(words, terminal="--tty" in streams)
    except FileNotFoundError as error:
        raise MachineError(
            "the docker command is not installed; jobs that read standard input require it",
            remedy="install the docker command, or pass the input as a file",
        ) from error
    finally:
        signal.signal(signal.SIGINT, before)


def _run_client(words: Sequence[str], *, terminal: bool) -> int:
    """Run the docker command; filter its output if it goes to our terminal.

    Args:
        words: the command line.
        terminal: whether the container has a terminal, which is connected to ours.
    """
    import subprocess

    sinks = [None if terminal or not s.isatty() else s for s in (sys.stdout, sys.stderr)]
    pipes = [None if sink is None else subprocess.PIPE for sink in sinks]
    with subprocess.Popen(
        words, stdout=pipes[0], stderr=pipes[1], preexec_fn=_reset_interrupts
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
    """Create the folders that a plan mounts, and move its outputs to the workspace's root."""
    mounts.make_sources(plan.mounts, plan.workspace, plan.user)
    try:
        yield
    finally:
        mounts.publish(plan.workspace, plan.outputs)


class PrintableStream:
    """Copies UTF-8 text to a terminal with control characters escaped.

    A job's output is untrusted: a model's answer, a name in a data set. A terminal would
    execute escape sequences in it, such as those that set its title or make it reply.

    Args:
        sink: the destination.
    """

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, chunk: bytes) -> None:
        """Write the complete characters of a chunk."""
        self._put(self._decoder.decode(chunk))

    def finish(self) -> None:
        """Write the rest of an incomplete character."""
        self._put(self._decoder.decode(b"", final=True))

    def _put(self, text: str) -> None:
        self._sink.write(printable(text).encode())
        self._sink.flush()


def _reset_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def container_options(plan: Plan, secrets: dict[str, str]) -> dict[str, Any]:
    """Return the arguments of docker-py's ``containers.create``.

    Args:
        plan: the plan.
        secrets: files of the secrets that the executor wrote, by name.
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
        plan: the plan.
        view: displays the job.
        output: destination of the job's standard output.
        record: writes the job's log; None for none.
        stops: the received signals, in order; the handler appends to it.
    """

    plan: Plan
    view: View
    output: IO[bytes]
    record: RunRecord | None
    stops: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Only terminals get filtered output; files and pipes get the result unchanged.
        self._printable = PrintableStream(self.output) if self.output.isatty() else None

    def follow(self, container: Container) -> int:
        """Start the container, follow it to its end and return its exit status."""
        events: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1024)
        frames = container.attach(stdout=True, stderr=True, stream=True, demux=True)
        container.start()
        # Read in a thread, so that this one can handle signals and the deadline.
        threading.Thread(target=_read, args=(container, frames, events), daemon=True).start()
        lines = Lines()
        handled, deadline = 0, float("inf")
        while True:
            if len(self.stops) > handled:
                deadline = self._stop(container, first=handled == 0)
                handled = len(self.stops)
            if time.monotonic() > deadline:
                self.view.line(
                    f"the job did not exit within {self.plan.grace_seconds} s: killing it"
                )
                deadline = self._kill(container)
            try:
                kind, value = events.get(timeout=_TICK_SECONDS)
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
        """Pass a signal on and return the deadline for the job to exit."""
        if not first:
            return self._kill(container)
        self.view.line(
            f"stopping: the job has {self.plan.grace_seconds} s to save and exit"
            " (repeat to kill it)"
        )
        _send(container, signal.SIGTERM)
        return time.monotonic() + self.plan.grace_seconds

    def _kill(self, container: Container) -> float:
        _send(container, signal.SIGKILL)
        return float("inf")

    def _result(self, chunk: bytes) -> None:
        if _same_terminal(self.output):
            # The result and a live view cannot share a terminal.
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
        """Return the exit status, or raise an error for a stopped or killed job."""
        status = int(state["ExitCode"])
        if self.stops and status > 128:
            raise Stopped(self.stops[0], f"{self.plan.job} was stopped")
        if state["OOMKilled"] or status == _KILLED:
            certainty = "" if state["OOMKilled"] else "probably "
            raise JobError(
                f"{self.plan.job} was killed, {certainty}because it ran out of memory",
                remedy="reduce the batch size or the sequence length, or free memory",
            )
        return status


class Lines:
    """Splits a stream of bytes into lines of text."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that the chunk completes; overlong lines are split."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            whole.append(self._rest)
            self._rest = b""
        return [as_text(line) for line in whole]

    def rest(self) -> list[str]:
        """Return the text after the last end of line, if any."""
        return [as_text(self._rest)] if self._rest else []


def as_text(line: bytes) -> str:
    """Return a line of a container as a terminal would show it."""
    # A carriage return overwrites the line on a terminal: only the last part is visible.
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", errors="replace")


def _read(container: Container, frames: Any, events: queue.Queue[tuple[str, Any]]) -> None:
    """Put the container's output into the queue, then its final state."""
    try:
        for stdout, stderr in frames:
            if stdout:
                events.put(("stdout", stdout))
            if stderr:
                events.put(("stderr", stderr))
        container.wait()
        container.reload()
        events.put(("end", container.attrs["State"]))
    except Exception as error:  # raised in the main thread
        events.put(("fault", error))


def _create(plan: Plan, client: DockerClient, secrets: dict[str, str]) -> Container:
    import docker.errors

    try:
        return client.containers.create(**container_options(plan, secrets))
    except docker.errors.ImageNotFound as error:
        raise MachineError(
            f"the image {plan.image} does not exist", remedy=plan.build_command
        ) from error
    except docker.errors.APIError as error:
        if problem := _damaged_image(plan, str(error.explanation)):
            raise MachineError(problem) from error
        raise MachineError(
            f"the engine cannot create the container: {error.explanation}",
            where=plan.image,
            remedy="check the plan (--dry-run) and the machine (./inv doctor)",
        ) from error


# Messages for missing or damaged layers and blobs in the engine's store, for Docker's image
# store (overlay2) and for containerd's.
_DAMAGED = re.compile(
    r"layer does not exist"
    r"|(mount|overlay|readlink|rw layer|snapshot).*"
    r"(no such file|does not exist|not found|invalid argument|input/output error)"
    r"|(content|blob|digest).*not found"
    r"|structure needs cleaning|unexpected commit digest",
    re.IGNORECASE | re.DOTALL,
)


def _damaged_image(plan: Plan, explanation: str) -> Problem | None:
    """Return a problem with a repair of the engine's store, if a layer is damaged.

    A build would reuse the damaged layer from the cache, so the images, which share their
    layers, and the cache must be deleted first.
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
        # 404 and 409: it has already ended.
        if error.status_code not in (404, 409):
            raise


def _remove(container: Container) -> None:
    import docker.errors

    try:
        container.remove(force=True)
    except docker.errors.APIError as error:
        if error.status_code not in (404, 409):
            raise


def _engine_error(plan: Plan, error: Exception) -> StackError:
    import docker.errors

    if isinstance(error, docker.errors.APIError):
        if problem := _damaged_image(plan, str(error.explanation)):
            return MachineError(problem)
        return MachineError(
            f"the engine reports: {error.explanation}",
            where=plan.name,
            remedy="check the engine's log (journalctl -u docker) and the machine (./inv doctor)",
        )
    return MachineError(
        f"the connection to the engine was lost while {plan.job} was running",
        where=f"container {plan.name}",
        remedy="once the engine is back, check whether the job is running"
        f" (docker ps --all --filter name={plan.name}), follow it (docker logs --follow"
        f" {plan.name}) or stop it (docker rm --force {plan.name})",
    )


@contextmanager
def _signals(stops: list[int]) -> Iterator[None]:
    """Append signals to the list instead of letting them end this process."""

    def record(signum: int, frame: FrameType | None) -> None:
        stops.append(signum)

    before = {signum: signal.signal(signum, record) for signum in _SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _written_secrets(plan: Plan) -> Iterator[dict[str, str]]:
    """Write the secrets that have only content to files, which are deleted at the end."""
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

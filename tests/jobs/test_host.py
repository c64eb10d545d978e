"""The executor against a real engine: streams, statuses, signals, rights, what is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from paddle_stacks import settings
from paddle_stacks.errors import JobError, MachineError, Stopped
from paddle_stacks.executors.docker import execute
from paddle_stacks.executors.record import RunRecord
from paddle_stacks.jobs.catalog import Job
from paddle_stacks.jobs.events import Event
from paddle_stacks.ownership import run_as
from paddle_stacks.plan import Backend, Device, Plan, Secret, make, show

ROOT = Path(__file__).parents[2]


class Recorder:
    """A view that keeps what it is shown, and acts when a line comes."""

    def __init__(self, on: dict[str, Callable[[], None]] | None = None) -> None:
        self.events: list[Event] = []
        self.lines: list[str] = []
        self.closed: list[bool] = []
        self._on = on or {}

    def event(self, event: Event) -> None:
        self.events.append(event)

    def line(self, text: str) -> None:
        self.lines.append(text)
        if text in self._on:
            self._on[text]()

    def tick(self) -> None: ...

    def close(self, *, done: bool) -> None:
        self.closed.append(done)


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    made = docker.from_env()
    yield made
    made.close()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    if os.geteuid() == 0:
        os.chown(tmp_path, 1000, 1000)
    return tmp_path


def shell(workspace: Path, script: str, **changes: object) -> Plan:
    """Return the plan of a command that is not a job, with all that a job's plan has."""
    plan = make(
        Job("sh", "infer", "", writes=("runs",)),
        ["-c", script],
        settings.Settings(root=ROOT, workspace=workspace),
        Backend("cpu", ""),
        user=run_as(workspace),
        suffix=os.urandom(4).hex(),
    )
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


def gone(client: docker.DockerClient, plan: Plan) -> bool:
    return not client.containers.list(all=True, filters={"name": plan.name})


def test_the_streams_are_kept_apart(client: docker.DockerClient, workspace: Path) -> None:
    event = Event("step", {"step": 1, "total": 2, "loss": 0.5}).encoded()
    script = f"""
        printf 'r\\303\\251sult\\n\\377 no end of line'
        printf '%s\\n' '{event}' 'a line' >&2
        printf 'progress 1\\rprogress 2\\n' >&2
        printf 'the last, without an end' >&2
    """
    plan = shell(workspace, script)
    output, view = io.BytesIO(), Recorder()
    assert execute(plan, client, view=view, output=output) == 0
    assert output.getvalue() == "résult\n".encode() + b"\xff no end of line"
    assert view.lines == ["a line", "progress 2", "the last, without an end"]
    assert view.events == [Event("step", {"step": 1, "total": 2, "loss": 0.5})]
    assert view.closed[0] is True
    assert gone(client, plan)


def test_a_large_result_is_whole(client: docker.DockerClient, workspace: Path) -> None:
    plan = shell(workspace, "head -c 20000000 /dev/zero; seq 100000 >&2")
    output, view = io.BytesIO(), Recorder()
    assert execute(plan, client, view=view, output=output) == 0
    assert output.getvalue() == bytes(20_000_000)
    assert view.lines == [str(number) for number in range(1, 100_001)]


@pytest.mark.parametrize("status", [0, 2, 3, 5, 130])
def test_the_exit_status_is_the_jobs(
    client: docker.DockerClient, workspace: Path, status: int
) -> None:
    plan, view = shell(workspace, f"exit {status}"), Recorder()
    assert execute(plan, client, view=view) == status
    assert view.closed[0] is (status == 0)
    assert gone(client, plan)


def test_a_signal_lets_the_job_save(client: docker.DockerClient, workspace: Path) -> None:
    script = (
        "trap 'echo saved >runs/saved; exit 143' TERM; echo ready >&2; while :; do sleep 1; done"
    )
    plan = shell(workspace, script)
    view = Recorder({"ready": lambda: os.kill(os.getpid(), signal.SIGINT)})
    with pytest.raises(Stopped) as caught:
        execute(plan, client, view=view)
    assert caught.value.status == 128 + signal.SIGINT
    assert (workspace / "runs" / "saved").read_text() == "saved\n"
    assert any("45 s to save" in line for line in view.lines)
    assert gone(client, plan)


def test_a_job_that_finishes_after_a_signal_is_done(
    client: docker.DockerClient, workspace: Path
) -> None:
    plan = shell(workspace, "trap 'exit 0' TERM; echo ready >&2; while :; do sleep 0.05; done")
    view = Recorder({"ready": lambda: os.kill(os.getpid(), signal.SIGTERM)})
    assert execute(plan, client, view=view) == 0


def test_a_second_signal_kills(client: docker.DockerClient, workspace: Path) -> None:
    script = "trap 'echo still here >&2' TERM; echo ready >&2; while :; do sleep 0.05; done"
    plan = shell(workspace, script, grace_seconds=600)
    interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with pytest.raises(Stopped) as caught:
        execute(plan, client, view=Recorder({"ready": interrupt, "still here": interrupt}))
    assert caught.value.status == 128 + signal.SIGINT
    assert gone(client, plan)


def test_a_job_that_does_not_leave_is_killed(client: docker.DockerClient, workspace: Path) -> None:
    script = "trap '' TERM; echo ready >&2; while :; do sleep 0.05; done"
    plan = shell(workspace, script, grace_seconds=1)
    view = Recorder({"ready": lambda: os.kill(os.getpid(), signal.SIGTERM)})
    with pytest.raises(Stopped) as caught:
        execute(plan, client, view=view)
    assert caught.value.status == 128 + signal.SIGTERM
    assert "the job did not exit within 1 s: killing it" in view.lines
    assert gone(client, plan)


def test_the_signal_handlers_are_put_back(client: docker.DockerClient, workspace: Path) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    execute(shell(workspace, "true"), client, view=Recorder())
    after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert after == before


def test_a_killed_job_names_memory(client: docker.DockerClient, workspace: Path) -> None:
    plan = shell(workspace, "kill -9 $$")
    with pytest.raises(JobError, match="memory"):
        execute(plan, client, view=Recorder())
    assert gone(client, plan)


def test_a_missing_image_says_how_to_build_it(client: docker.DockerClient, workspace: Path) -> None:
    plan = shell(workspace, "true", image="paddle-stacks/train:nowhere")
    with pytest.raises(MachineError) as caught:
        execute(plan, client, view=Recorder())
    assert caught.value.problems[0].remedy == "./inv build --image train"


def test_what_the_engine_refuses_is_told(client: docker.DockerClient, workspace: Path) -> None:
    plan = shell(workspace, "true", devices=(Device("/dev/no-such-device", "/dev/no-such-device"),))
    with pytest.raises(MachineError, match="no-such-device"):
        execute(plan, client, view=Recorder())
    assert gone(client, plan)


def test_a_job_has_no_rights(client: docker.DockerClient, workspace: Path) -> None:
    script = """
        grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status
        id -u
        (: > /opt/x) 2>/dev/null || echo 'root is read only'
        echo x > /tmp/x && echo 'tmp can be written'
        ls /sys/class/net
    """
    output = io.BytesIO()
    assert execute(shell(workspace, script), client, view=Recorder(), output=output) == 0
    uid = run_as(workspace).partition(":")[0]
    assert output.getvalue().decode().split("\n") == [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        uid,
        "root is read only",
        "tmp can be written",
        "lo",
        "",
    ]


def test_the_run_record(client: docker.DockerClient, workspace: Path) -> None:
    event = Event("phase", {"name": "train"}).encoded()
    script = f"echo early >&2; mkdir -p runs/x; printf '%s\\n' '{event}' late >&2"
    plan = shell(workspace, script)
    record = RunRecord(workspace / "runs" / "x", workspace, show.as_json(plan), plan.user)
    assert execute(plan, client, view=Recorder(), record=record) == 0
    log, kept = workspace / "runs/x/run.log", workspace / "runs/x/plan.json"
    assert log.read_text().splitlines() == ["early", "== train", "late"]
    assert json.loads(kept.read_text())["argv"] == list(plan.argv)
    owner = workspace.stat()
    for path in (log, kept, workspace / "runs/x"):
        assert (path.stat().st_uid, path.stat().st_gid) == (owner.st_uid, owner.st_gid)


def test_a_job_that_makes_no_folder_gets_none(client: docker.DockerClient, workspace: Path) -> None:
    plan = shell(workspace, "echo no >&2; exit 2")
    record = RunRecord(workspace / "runs" / "x", workspace, show.as_json(plan), plan.user)
    assert execute(plan, client, view=Recorder(), record=record) == 2
    assert list((workspace / "runs").iterdir()) == []


def test_a_secret_is_a_private_file(client: docker.DockerClient, workspace: Path) -> None:
    secret = Secret("pip.conf", content="index-url = https://me:hidden@host/simple\n")
    plan = shell(workspace, "cat /run/secrets/pip.conf; echo ready >&2; sleep 1", secrets=(secret,))
    seen: dict[str, object] = {}
    view = Recorder({"ready": lambda: seen.update(client.containers.get(plan.name).attrs)})
    output = io.BytesIO()
    assert execute(plan, client, view=view, output=output) == 0
    assert output.getvalue().decode() == secret.content
    assert seen and "hidden" not in json.dumps(seen)
    mounts = seen["Mounts"]
    assert isinstance(mounts, list)
    source = next(m["Source"] for m in mounts if m["Destination"] == "/run/secrets/pip.conf")
    assert not Path(source).exists()


class Relay:
    """A socket in front of the engine's that can be cut, as when the engine stops."""

    def __init__(self, path: Path, engine: str) -> None:
        self.address = f"unix://{path}"
        self._engine = engine
        self._open: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for end in (self._server, *self._open):
            with contextlib.suppress(OSError):  # that connection was over already
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._engine)
            self._open += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while chunk := source.recv(65536):
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


def test_an_engine_that_goes_away(
    client: docker.DockerClient, workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine = client.api.base_url.removeprefix("http+docker://")
    if engine != "localhost":
        pytest.skip("the engine is not on a local socket")
    path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    relay = Relay(tmp_path_factory.mktemp("s") / "s", path)
    plan = shell(workspace, "echo ready >&2; sleep 600")
    try:
        with pytest.raises(MachineError, match="the connection to the engine was lost") as caught:
            execute(
                plan,
                docker.DockerClient(base_url=relay.address),
                view=Recorder({"ready": relay.cut}),
            )
        assert plan.name in caught.value.problems[0].where
        assert "docker logs" in caught.value.problems[0].remedy
        assert not gone(client, plan), "the job itself goes on"
    finally:
        client.containers.get(plan.name).remove(force=True)


def test_a_reader_that_leaves(client: docker.DockerClient, workspace: Path) -> None:
    plan = shell(workspace, "while :; do echo answer; done")
    program = (
        "import sys, tests.jobs.test_host as t\n"
        "from pathlib import Path\n"
        "from paddle_stacks.errors import StackError\n"
        f"plan = t.shell(Path({str(workspace)!r}), {plan.argv[-1]!r}, name={plan.name!r})\n"
        "try: t.execute(plan, t.docker.from_env(), view=t.Recorder())\n"
        "except StackError as error: sys.exit(error.status)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    assert process.stdout.readline() == b"answer\n"
    process.stdout.close()
    complaint = process.stderr.read()
    assert process.wait() == 128 + signal.SIGPIPE
    assert complaint == b""
    assert gone(client, plan)


def test_a_job_that_reads_standard_input(client: docker.DockerClient, workspace: Path) -> None:
    plan = shell(workspace, "cat; echo said >&2; exit 3")
    program = (
        "import sys, tests.jobs.test_host as t\n"
        "from pathlib import Path\n"
        "from paddle_stacks.executors.docker import attach\n"
        f"plan = t.shell(Path({str(workspace)!r}), {plan.argv[-1]!r}, name={plan.name!r})\n"
        "sys.exit(attach(plan))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, input=b"asked\n", capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"asked\n", b"said\n")
    assert gone(client, plan)

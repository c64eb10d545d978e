"""The services on a real engine: exit statuses, owners of files, standard input."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]

# Runs the shell in the place of the jobs, so that this takes seconds and no network.
OVERRIDE = """
services:
  fetch:
    entrypoint: [/usr/bin/tini, --, /usr/local/bin/entry, sh, -c]
    command: !override ["exit ${FETCH_STATUS:-0}"]
  finetune:
    image: paddle-stacks/infer:cpu
    entrypoint: [/usr/bin/tini, --, /usr/local/bin/entry, sh, -c]
    command: !override
      - "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; touch runs/made; exit $STATUS"
  serve:
    command: !override [--model, tiny, --published]
"""


class Project:
    """A copy of the Compose file in a folder of its own, that belongs to user 1234 if it can."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "docker-compose.yml").write_text((ROOT / "docker-compose.yml").read_text())
        (folder / "override.yml").write_text(OVERRIDE)
        for name in ("configs", "data", "models", "runs"):
            (folder / name).mkdir()
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir()):
                os.chown(path, 1234, 1235)

    def compose(
        self, *words: str, override: bool = True, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        files = ["-f", "docker-compose.yml", *(["-f", "override.yml"] if override else [])]
        return subprocess.run(
            ["docker", "compose", "-p", f"test-{self.folder.name}", *files, *words],
            cwd=self.folder,
            env={**os.environ, "STATUS": "0", **environment},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    done = made.compose("--profile", "*", "down", "--remove-orphans")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("status", ["0", "2", "5"])
def test_up_ends_with_the_jobs_status(project: Project, status: str) -> None:
    done = project.compose("up", "--exit-code-from", "finetune", "finetune", STATUS=status)
    assert done.returncode == int(status), done.stderr


def test_run_ends_with_the_jobs_status(project: Project) -> None:
    done = project.compose("run", "--rm", "finetune", STATUS="3")
    assert done.returncode == 3, done.stderr


def test_finetune_does_not_start_without_its_model(project: Project) -> None:
    done = project.compose("up", "finetune", FETCH_STATUS="2")
    assert done.returncode != 0
    assert "didn't complete successfully: exit 2" in done.stderr
    assert not (project.folder / "runs" / "made").exists()


def test_a_service_has_no_rights_and_the_owners_files(project: Project) -> None:
    done = project.compose("run", "--rm", "finetune")
    assert done.stdout.split() == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
    made, owner = (project.folder / "runs" / "made").stat(), project.folder.stat()
    assert (made.st_uid, made.st_gid) == (owner.st_uid, owner.st_gid)


def test_a_service_that_is_stopped_hears_of_it(project: Project) -> None:
    """The job is not root as tini is, which has to be allowed to signal it."""
    script = "trap 'touch runs/told; exit 143' TERM; touch runs/up; while :; do sleep 0.1; done"
    name = f"test-{project.folder.name}-stopped"
    done = project.compose("run", "--detach", "--no-deps", "--name", name, "finetune", script)
    assert done.returncode == 0, done.stderr
    end = time.monotonic() + 60
    while not (project.folder / "runs" / "up").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    subprocess.run(["docker", "stop", "--time", "20", name], check=True, capture_output=True)
    inspect = ["docker", "inspect", "--format", "{{.State.ExitCode}}", name]
    ended = subprocess.run(inspect, check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == "143"
    assert (project.folder / "runs" / "told").exists()


def test_arguments_follow_the_service(project: Project) -> None:
    words = ("run", "--rm", "--no-deps", "finetune", "--config", "nowhere.json")
    done = project.compose(*words, override=False)
    assert done.returncode == 2, done.stderr
    assert "nowhere.json" in done.stderr


@pytest.mark.parametrize(
    ("service", "words", "remedy"),
    [
        ("finetune", ["--config", "my.json"], "my.json:/workspace/my.json:ro"),
        ("infer", ["--model", "m", "--input", "in.jsonl"], "in.jsonl:/workspace/in.jsonl:ro"),
        ("infer", ["--model", "m", "--benchmark", "--output", "o.json"], "--output runs/o.json"),
        ("infer", ["--model", "m", "--benchmark", "--output", "data/o.json"], "runs/o.json"),
    ],
)
def test_files_that_a_service_does_not_see_are_refused(
    project: Project, service: str, words: list[str], remedy: str
) -> None:
    for name in ("my.json", "in.jsonl"):
        (project.folder / name).write_text("{}")
    done = project.compose("run", "--rm", "--no-deps", "-T", service, *words, override=False)
    assert done.returncode == 2, done.stderr
    assert "only configs/, data/, models/ and runs/" in done.stderr
    assert remedy in done.stderr and "Traceback" not in done.stderr


def test_a_file_that_is_mounted_besides_is_seen(project: Project) -> None:
    (project.folder / "in.jsonl").write_text("no prompts")
    mount = ("-v", f"{project.folder}/in.jsonl:/workspace/in.jsonl:ro")
    words = ("--model", "none", "--input", "in.jsonl")
    done = project.compose("run", "--rm", "-T", *mount, "infer", *words, override=False)
    assert "is not in the container" not in done.stderr and done.returncode == 2, done.stderr


def test_infer_reads_standard_input(project: Project) -> None:
    words = ("run", "--rm", "-T", "infer", "--model", "none", "--prompt", "-")
    done = project.compose(*words, override=False, stdin="hello")
    assert done.returncode == 2, done.stderr
    assert 'no model "none"' in done.stderr


def _serve(project: Project, models: Path, **environment: str) -> tuple[str, dict[str, str]]:
    """Serve a model; return the URL of the list of models, and Compose's environment."""
    shutil.copytree(models, project.folder / "models", dirs_exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"SERVE_PORT": str(port), **environment}
    up = project.compose("up", "--detach", "--wait", "serve", **given)
    assert up.returncode == 0, up.stderr
    return f"http://127.0.0.1:{port}/v1/models", given


@pytest.mark.parametrize("keyed", [False, True])
def test_serve_is_reached_when_it_is_ready_and_stops_well(
    project: Project, tiny_models: Path, keyed: bool
) -> None:
    keys = project.folder / "keys"
    keys.write_text("me sk-0123456789abcdef\n")
    keys.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(keys, 1234, 1235)
    environment = {"PADDLE_STACKS_API_KEYS_FILE": str(keys)} if keyed else {}
    url, given = _serve(project, tiny_models, **environment)
    with httpx.Client(trust_env=False) as client:
        assert client.get(url).status_code == (401 if keyed else 200)
        found = client.get(url, headers={"Authorization": "Bearer sk-0123456789abcdef"})
    assert found.json()["data"][0]["id"] == "tiny"
    assert project.compose("stop", "serve", **given).returncode == 0
    listed = project.compose("ps", "--all", "--format", "json", "serve", **given).stdout
    assert json.loads(listed.splitlines()[0])["ExitCode"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root ends a process of a container's")
def test_a_server_that_is_killed_is_started_again_and_answers(
    project: Project, tiny_models: Path
) -> None:
    url, given = _serve(project, tiny_models)
    container = project.compose("ps", "--quiet", "serve", **given).stdout.strip()
    # Not `docker kill`, which the engine takes for a wish that it stay away.
    os.kill(int(_docker("inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)
    deadline = time.monotonic() + 120
    while _docker("inspect", "--format", "{{.RestartCount}}", container).strip() != "1":
        assert time.monotonic() < deadline, "it was not started again"
        time.sleep(0.1)
    answer = None
    while answer != "tiny":
        assert time.monotonic() < deadline, "it does not answer again"
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(url, trust_env=False).json()["data"][0]["id"]
        time.sleep(0.1)


def _docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout

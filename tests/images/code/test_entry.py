"""Images that run jobs: the entry point, whom it becomes, how it ends."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docker.models.images import Image

from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.simulated.hosts import make as make_host

SHOW = (
    "grep -E '^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs):' /proc/self/status"
)
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("owner", ["4242:4343", "0:0"])
def test_a_plain_run_becomes_the_owner_of_the_workspace(run: Run, folder: Path, owner: str) -> None:
    _own(folder, owner)
    done = run(["sh", "-c", f"{SHOW}; touch written"], [f"--volume={folder}:/workspace"])
    assert done.status == 0, done.stderr
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
    uid, gid = owner.split(":")
    assert status["Uid"].split() == [uid] * 4
    assert status["Gid"].split() == [gid] * 4
    assert status["Groups"].strip() == ""
    assert {int(status[name], 16) for name in CAPABILITIES} == {0}
    assert status["NoNewPrivs"] == "1"
    written = (folder / "written").stat()
    assert f"{written.st_uid}:{written.st_gid}" == owner


def test_a_devices_group_is_kept(run: Run, folder: Path) -> None:
    _own(folder, "4242:4343")
    done = run(["id", "-G"], [f"--volume={folder}:/workspace", "--group-add=44"])
    assert done.stdout.split() == ["4343", "44"]


def test_the_groups_of_a_dcus_nodes_are_joined(run: Run, folder: Path, tmp_path: Path) -> None:
    root = make_host("ok", tmp_path / "host")
    _own(folder, "4242:4343")
    devices = [f"--device={root}/dev/{name}:/dev/{name}" for name in ("kfd", "dri")]
    done = run(["sh", "-c", "id -G; : </dev/kfd"], [f"--volume={folder}:/workspace", *devices])
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.split() == ["4343", "44", "109"]


@pytest.mark.parametrize("options", [["--user=4242:4242"], ["--cap-drop=ALL"]])
def test_a_user_that_is_set_is_kept(run: Run, options: list[str]) -> None:
    done = run(["id", "-u"], options)
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.strip() == ("4242" if "--user=4242:4242" in options else "0")


def test_a_read_only_root_is_enough(run: Run, folder: Path) -> None:
    _own(folder, "4242:4343")
    options = ["--read-only", "--tmpfs=/tmp", f"--volume={folder}:/workspace"]
    done = run(["python", "-c", "import tempfile; print(tempfile.mkdtemp())"], options)
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.startswith("/tmp/")


@pytest.mark.parametrize("status", [0, 3, 127])
def test_the_exit_status_passes_through(run: Run, status: int) -> None:
    assert run(["sh", "-c", f"exit {status}"]).status == status


def test_an_unknown_job_is_a_wrong_request(run: Run) -> None:
    done = run(["finetunes"])
    assert done.status == 2
    assert '"finetunes" is neither a job nor a command' in done.stderr
    assert 'did you mean "finetune"?' in done.stderr
    assert done.stdout == ""


def test_without_arguments_the_jobs_are_listed(run: Run) -> None:
    done = run([])
    assert (done.status, done.stderr) == (0, "")
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert listed == set(JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_help_answers_without_the_framework(host: Any, job: str) -> None:
    done = host.run(
        f"PYTHONPATH=/opt/paddle-stacks python -X importtime -m entrypoints {job} --help"
    )
    assert done.rc == 0, done.stderr
    assert job in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "paddle_stacks.jobs.catalog" in imported
    assert not imported & {"paddle", "paddlenlp"}


def test_an_empty_bundle_is_none(run: Run) -> None:
    # What Compose mounts where the caller has no CA bundle.
    options = ["--env=SSL_CERT_FILE=/dev/null", "--env=PIP_CERT=", "--env=REQUESTS_CA_BUNDLE=/no"]
    done = run(["env"], options)
    assert done.status == 0
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert not names & {"SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"}


@pytest.mark.parametrize(
    ("name", "options"), [("TERM", []), ("INT", []), ("TERM", ["--user=4242:4242"])]
)
def test_a_signal_reaches_the_command(built: Image, name: str, options: list[str]) -> None:
    container = f"paddle-stacks-test-{uuid.uuid4().hex[:12]}"
    command = ["docker", "run", "--rm", f"--name={container}", *options, str(built.id)]
    # Its own status: any shell that the signal kills would end with 128 and its number.
    command += ["sh", "-c", f"trap 'exit 7' {name}; echo ready; while :; do sleep 0.1; done"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == "ready\n"
            subprocess.run(
                ["docker", "kill", f"--signal={name}", container], check=True, capture_output=True
            )
            # If the signal were lost the container would never end.
            assert running.wait(timeout=60) == 7
        finally:
            subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)


def test_a_command_that_minds_no_signal_ends_by_it(built: Image) -> None:
    container = f"paddle-stacks-test-{uuid.uuid4().hex[:12]}"
    command = ["docker", "run", "--rm", f"--name={container}", str(built.id)]
    command += ["sh", "-c", "echo ready; exec sleep infinity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == "ready\n"
            # Ten minutes of grace: that it ends at all is SIGTERM's work.
            stop = ["docker", "stop", "--time=600", container]
            subprocess.run(stop, check=True, capture_output=True, timeout=60)
            assert running.wait(timeout=60) == 143
        finally:
            subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)


def _own(folder: Path, owner: str) -> None:
    """Give a folder to another user; who is not root lets a container do it."""
    done = subprocess.run(["chown", owner, str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.fail(f"cannot give {folder} to {owner}: run the image tests as root")

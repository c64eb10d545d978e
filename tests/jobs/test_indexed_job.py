"""The pods of an Indexed Job, as containers: what the document says of them lets them meet.

Each has the host name, the name in the network, the variables and the rights that Kubernetes
gives to that pod. What cannot be had without a cluster is its DNS and its scheduler.
"""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import backend, make
from paddle_stacks.plan.kubernetes import Placement, as_kubernetes
from paddle_stacks.settings import Settings
from tests.support import runner

ROOT = runner.REPOSITORY
NODES = 2
SECONDS = 180


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def network() -> Iterator[str]:
    name = f"paddle-stacks-test-{uuid.uuid4().hex[:8]}"
    docker("network", "create", "--internal", name)
    yield name
    for pod in docker("ps", "-aq", "--filter", f"network={name}").split():
        docker("rm", "--force", pod)
    docker("network", "rm", name)


def job_of(workspace: Path) -> dict[str, Any]:
    platform = backend.load("cpu", ROOT)
    settings = Settings(root=ROOT, workspace=workspace)
    user = f"{workspace.stat().st_uid}:{workspace.stat().st_gid}"
    plan = make(JOBS["pretrain"], [], settings, platform, user=user, suffix="x1")
    text = as_kubernetes(plan, platform, NODES, placement=Placement(operator="none"))
    found: dict[str, Any] = next(iter(yaml.safe_load_all(text)))
    return found


def start(job: dict[str, Any], number: int, network: str, workspace: Path) -> str:
    """Start one of a job's pods, with another program, and return its container."""
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    user = pod["securityContext"]
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"] and rights["capabilities"] == {"drop": ["ALL"]}
    words = ["--hostname", f"{name}-{number}", "--network", network]
    words += ["--network-alias", f"{name}-{number}.{pod['subdomain']}"]
    words += ["--user", f"{user['runAsUser']}:{user['runAsGroup']}", "--read-only"]
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    words += ["--tmpfs", "/tmp:mode=1777", "--volume", f"{workspace}:/workspace"]
    for variable in container["env"]:
        # What is not there is the pod's number.
        words += ["--env", f"{variable['name']}={variable.get('value', number)}"]
    # Two cores are shared by four processes.
    words += ["--env", "OMP_NUM_THREADS=1"]
    return docker("run", "--detach", *words, container["image"], "python", "meet.py").strip()


def wait_for(text: str, container: str) -> None:
    end = time.monotonic() + SECONDS
    while text not in said(container):
        assert time.monotonic() < end, said(container)
        time.sleep(0.2)


def said(container: str) -> str:
    done = subprocess.run(
        ["docker", "logs", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.stdout


def test_the_pods_meet_by_the_name_of_the_first(network: str, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("meet.py"), tmp_path)
    tmp_path.chmod(0o777)  # root's folder here, and a pod is never root
    job = job_of(tmp_path)
    second = start(job, 1, network, tmp_path)
    wait_for("does not resolve yet", second)
    first = start(job, 0, network, tmp_path)
    for container in (first, second):
        wait_for("sum", container)
        assert docker("wait", container).strip() == "0", said(container)
    # The first process of each node says what it has; ranks 0 to 3 were added up.
    assert "rank 0 sum 6" in said(first)
    assert "rank 2 sum 6" in said(second)

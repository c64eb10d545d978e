"""The services for a DCU on a real engine and a simulated host: what a job sees of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddle_stacks.simulated import hosts

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "docker-compose.dcu.yml")

# The shell in the place of the job, in the image that a machine without a DCU has.
SEEN = """
id -u; id -g; id -G
for node in /dev/kfd /dev/mkfd /dev/dri/card1 /dev/dri/renderD128; do
    if [ -r "$node" ] && [ -w "$node" ] && : < "$node"; then echo "$node"; fi
done
if touch /opt/hyhal/x 2> /dev/null; then echo "hyhal can be written"; fi
/opt/hyhal/bin/hy-smi > /dev/null && echo hy-smi
env | grep -E '^(HIP|HSA|MIOPEN)' | sort
df -m --output=size /dev/shm /tmp | grep -v M
ulimit -s
grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status | tr -d '\\t'
"""


class Project:
    """Copies of the Compose files in a folder that belongs to user 1234, beside a host's root."""

    def __init__(self, folder: Path, host: Path) -> None:
        self.folder, self.host = folder, host
        for name in FILES:
            (folder / name).write_text((ROOT / name).read_text())
        for name in ("configs", "data", "models", "runs"):
            (folder / name).mkdir()
        for path in (folder, *folder.iterdir()):
            os.chown(path, 1234, 1235)
        service = json.loads(self.compose("config", "infer", "--format", "json").stdout)
        start = service["services"]["infer"]["entrypoint"][:-1]
        override = {"image": "paddle-stacks/infer:cpu", "entrypoint": [*start, "sh", "-c"]}
        (folder / "override.json").write_text(json.dumps({"services": {"infer": override}}))

    def compose(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        override = self.folder / "override.json"
        names = [*FILES, *(["override.json"] if override.exists() else [])]
        files = [word for name in names for word in ("-f", name)]
        # The engine that runs tests may not be allowed to lift the limit of locked memory.
        host = {"DCU_ROOT": str(self.host), "DCU_MEMLOCK": "65536"}
        return subprocess.run(
            ["docker", "compose", "-p", f"test-{self.folder.name}", *files, *words],
            cwd=self.folder,
            env={**os.environ, **host, **environment},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    if os.geteuid() != 0:
        pytest.skip("to make device nodes takes root")
    (tmp_path / "dcu").mkdir()
    made = Project(tmp_path / "dcu", hosts.make("ok", tmp_path / "host"))
    yield made
    done = made.compose("--profile", "*", "down", "--remove-orphans")
    assert done.returncode == 0, done.stderr


def test_a_job_sees_the_nodes_the_user_land_and_nothing_more(project: Project) -> None:
    given = {"DCU_MKFD": "mkfd", "HIP_VISIBLE_DEVICES": "0,1"}
    done = project.compose("run", "--rm", "infer", SEEN, **given)
    assert done.returncode == 0, done.stderr
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
        *("1234", "1235", "1235 44 109"),
        *("/dev/kfd", "/dev/mkfd", "/dev/dri/card1", "/dev/dri/renderD128"),
        "hy-smi",
        *("HIP_VISIBLE_DEVICES=0,1", "HSA_FORCE_FINE_GRAIN_PCIE=1", "MIOPEN_FIND_MODE=3"),
        *("131072", "8192", "unlimited"),
        *("CapEff:0000000000000000", "CapBnd:0000000000000000", "NoNewPrivs:1"),
    ]


def test_what_is_not_asked_for_is_not_there(project: Project) -> None:
    done = project.compose("run", "--rm", "infer", "ls /dev/kfd /dev/mkfd; env | grep HIP")
    assert "No such file" in done.stderr and "HIP" not in done.stdout
    assert "/dev/kfd" in done.stdout


def test_a_host_without_hyhal_is_not_given_an_empty_one(project: Project, tmp_path: Path) -> None:
    project.host = hosts.make("no-hyhal", tmp_path / "none")
    done = project.compose("run", "--rm", "infer", "true")
    assert done.returncode != 0 and "opt/hyhal" in done.stderr
    assert not (project.host / "opt" / "hyhal").exists()

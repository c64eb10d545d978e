"""Every image: the environment, the user, what can be written, what is not in it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from docker.models.containers import Container
from docker.models.images import Image

from tests.support.stages import BACKEND, PLATFORM


def test_tini_is_the_first_process_and_starts_the_entry(host: Any, built: Image) -> None:
    assert host.file("/proc/1/comm").content_string.strip() == "tini"
    assert built.attrs["Config"]["Entrypoint"] == ["/usr/bin/tini", "--", "/usr/local/bin/entry"]
    assert built.attrs["Config"]["Cmd"] == ["help"]


def test_an_arbitrary_user_has_no_rights(host: Any) -> None:
    status = dict(
        line.split(":\t", 1) for line in host.check_output("cat /proc/self/status").splitlines()
    )
    assert status["Uid"].split() == ["4242"] * 4
    assert status["Gid"].split() == ["4242"] * 4
    assert status["NoNewPrivs"] == "1"
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {0}


def test_the_root_file_system_cannot_be_written(host: Any) -> None:
    assert host.mount_point("/").options[0] == "ro"
    # Debian lets everyone write here.
    done = host.run("touch /var/tmp/written")
    assert done.rc == 1
    assert "Read-only file system" in done.stderr


def test_the_workspace_can_be_written(host: Any) -> None:
    assert host.check_output("pwd") == "/workspace"
    host.check_output("echo written > runs/file && rm runs/file")
    assert host.run("echo written > file").failed, "no more than a job needs"


def test_home_and_the_caches_can_be_made(host: Any, container: Container) -> None:
    environment = _environment(container)
    for name in ("HOME", "XDG_CACHE_HOME", "PPNLP_HOME", "HF_HOME", "MPLCONFIGDIR"):
        folder = environment[name]
        assert folder.startswith("/tmp")
        host.check_output(f"mkdir -p {folder}/made && rmdir {folder}/made")


def test_nothing_is_left_in_tmp(built: Image) -> None:
    # The plans put an empty file system there; under a plain `docker run` a folder of the
    # build's would be in the way of whoever the job runs as.
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint=find", str(built.id)]
    done = subprocess.run([*command, "/tmp", "-mindepth", "1"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


# A pyc file's head: magic number, flags, then the source's date where the flags are 0 (PEP 552).
STALE = """
import json, pathlib, struct
stale, seen = [], 0
for path in pathlib.Path("/usr/lib").rglob("__pycache__/*.cpython-*.pyc"):
    seen += 1
    flags, date = struct.unpack("<4xII", path.read_bytes()[:12])
    source = path.parents[1] / (path.name.partition(".cpython-")[0] + ".py")
    if not flags and source.exists() and int(source.stat().st_mtime) != date:
        stale.append(str(path))
print(json.dumps([stale, seen]))
"""


def test_no_bytecode_is_compiled_anew_by_every_process(host: Any) -> None:
    stale, seen = json.loads(host.check_output("$BASE_PYTHON -c %s", STALE))
    assert stale == []
    assert seen > 100 or BACKEND == "dcu", "without any, everything is compiled anew"


@pytest.mark.parametrize("shell", ["", "sh -c", "sh -lc", "bash -lc", "bash -ic"])
def test_every_shell_has_the_environment_of_the_image(
    container: Container, built: Image, shell: str
) -> None:
    command = [*shell.split(), "env"] if shell else ["env"]
    status, output = container.exec_run(command, stderr=False)
    assert status == 0
    found = dict(line.split("=", 1) for line in output.decode().splitlines() if "=" in line)
    wanted = dict(entry.split("=", 1) for entry in built.attrs["Config"]["Env"])
    assert {name: found.get(name) for name in wanted} == wanted


@pytest.mark.skipif(bool(PLATFORM.architectures), reason="the DTK's image has its compilers")
def test_nothing_can_compile(host: Any) -> None:
    compilers = "gcc g++ cc c++ clang ld as make cmake nvcc hipcc rustc cargo go"
    assert host.run(f"for name in {compilers}; do command -v $name; done; true").stdout == ""
    assert host.run("ls -d /usr/include/*.h /usr/lib/gcc").stdout == ""


def test_no_file_of_ours_gives_rights_to_who_runs_it(host: Any) -> None:
    # Debian has a few (su, mount); no-new-privileges makes them harmless.
    assert host.check_output("find /opt /usr/local /workspace -type f -perm /6000") == ""


def test_nothing_is_left_of_package_managers_at_work(host: Any) -> None:
    folders = "/var/lib/apt/lists /var/cache/apt /var/cache/uv /root/.cache /tmp/.cache /var/log"
    left = host.run(f"find {folders} -type f -size +0 2>/dev/null").stdout.split()
    assert left == []
    assert host.run("command -v uv").rc != 0


def _environment(container: Container) -> dict[str, str]:
    status, output = container.exec_run(["env"])
    assert status == 0
    return dict(line.split("=", 1) for line in output.decode().splitlines())

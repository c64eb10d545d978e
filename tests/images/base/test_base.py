"""Every image: the environment, the user, what can be written, what is not in it."""

from __future__ import annotations

from typing import Any

import pytest
from docker.models.containers import Container
from docker.models.images import Image


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


@pytest.mark.parametrize("folder", ["/", "/opt", "/etc", "/usr/local/bin", "/var/tmp", "/root"])
def test_the_root_file_system_cannot_be_written(host: Any, folder: str) -> None:
    done = host.run(f"touch {folder}/written")
    assert done.rc == 1
    assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr


def test_the_workspace_can_be_written(host: Any) -> None:
    assert host.check_output("pwd") == "/workspace"
    host.check_output("echo written > file && rm file")


def test_home_and_the_caches_can_be_made(host: Any, container: Container) -> None:
    environment = _environment(container)
    caches = ("HOME", "XDG_CACHE_HOME", "PPNLP_HOME", "HF_HOME", "MPLCONFIGDIR")
    for name in caches:
        assert environment[name].startswith("/tmp")
        host.check_output(f"mkdir -p {environment[name]}/made && rmdir {environment[name]}/made")


@pytest.mark.parametrize("shell", ["", "sh -c", "sh -lc", "bash -c", "bash -lc", "bash -ic"])
def test_every_shell_has_the_environment_of_the_image(
    container: Container, built: Image, shell: str
) -> None:
    command = [*shell.split(), "env"] if shell else ["env"]
    status, output = container.exec_run(command, stderr=False)
    assert status == 0
    found = dict(line.split("=", 1) for line in output.decode().splitlines() if "=" in line)
    wanted = dict(entry.split("=", 1) for entry in built.attrs["Config"]["Env"])
    assert {name: found.get(name) for name in wanted} == wanted


def test_nothing_can_compile(host: Any) -> None:
    compilers = "gcc g++ cc c++ clang ld as make cmake nvcc hipcc rustc cargo go"
    found = [name for name in compilers.split() if host.exists(name)]
    assert not found
    assert host.run("ls -d /usr/include/*.h /usr/lib/gcc").stdout == ""


def test_no_file_gives_rights_to_who_runs_it_beyond_debians_own(host: Any) -> None:
    found = host.run("find / -xdev -type f -perm /6000 2>/dev/null").stdout.split()
    assert {path for path in found if path.startswith(("/opt", "/usr/local", "/tmp"))} == set()


def test_nothing_is_left_of_package_managers_at_work(host: Any) -> None:
    folders = "/var/lib/apt/lists /var/cache/apt /var/cache/uv /root/.cache /tmp/.cache /var/log"
    left = host.run(f"find {folders} -type f -size +0 2>/dev/null").stdout.split()
    # The records of who logged in are part of Debian's base-files.
    assert left == []
    assert host.run("command -v uv").rc != 0


def _environment(container: Container) -> dict[str, str]:
    status, output = container.exec_run(["env"])
    assert status == 0
    return dict(line.split("=", 1) for line in output.decode().splitlines())

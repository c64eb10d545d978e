"""Images for DCUs: the toolkit's environment, and what the plan brings of the host."""

from __future__ import annotations

from typing import Any

import pytest
from docker.models.containers import Container
from docker.models.images import Image

from paddle_stacks.dcu.host import Host
from paddle_stacks.dcu.smi import parse
from tests.support.stages import BACKEND, PLATFORM

NODES = ("/dev/kfd", "/dev/dri/renderD128")


@pytest.fixture(autouse=True)
def _a_host_with_cards(machine: Host, request: pytest.FixtureRequest) -> None:
    if "host" in request.fixturenames and not machine.node("/dev/kfd"):
        pytest.skip("this machine has no /dev/kfd")


@pytest.mark.parametrize("path", NODES)
def test_a_user_without_rights_can_open_the_nodes(host: Any, path: str) -> None:
    assert host.check_output(f"stat -c %F {path}") == "character special file"
    done = host.run(f"exec 3<>{path}")
    assert done.rc == 0, done.stderr


def test_the_users_groups_are_those_of_the_nodes(host: Any, machine: Host) -> None:
    wanted = machine.gids((*PLATFORM.devices, *PLATFORM.optional_devices))
    assert wanted
    assert set(wanted) < {int(group) for group in host.check_output("id -G").split()}
    assert 0 not in wanted


def test_no_other_device_is_there(host: Any) -> None:
    found = set(host.check_output("find /dev -type c -o -type b").split())
    ours = {"/dev/kfd", "/dev/mkfd"}
    assert not {p for p in found - ours if not p.startswith(("/dev/dri/", "/dev/pts/"))} - {
        f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "console")
    }


def test_the_hosts_user_land_is_there_and_cannot_be_changed(host: Any) -> None:
    assert "ro" in host.mount_point("/opt/hyhal").options
    assert host.run("touch /opt/hyhal/changed").rc != 0


def test_hy_smi_lists_the_cards(host: Any) -> None:
    assert host.check_output("command -v hy-smi") == "/opt/hyhal/bin/hy-smi"
    assert len(parse(host.check_output("hy-smi"))) >= 1


def test_the_limits_are_the_plans(host: Any, container: Container) -> None:
    limits = host.file("/proc/self/limits").content_string
    rows = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}
    names = {
        "core": "Max core file size",
        "memlock": "Max locked memory",
        "stack": "Max stack size",
    }
    for name, number in PLATFORM.ulimits.items():
        assert rows[names[name]] == ("unlimited" if number == -1 else str(number)), name
    size = host.check_output("df --block-size=1M --output=size /dev/shm").split()[-1]
    assert int(size) == PLATFORM.shm_mib


def test_the_toolkits_paths_come_first_behind_our_own(built: Image) -> None:
    environment = dict(entry.split("=", 1) for entry in built.attrs["Config"]["Env"])
    path = environment["PATH"].split(":")
    assert path[:2] == ["/opt/venv/bin", "/opt/dtk-24.04.1/bin"]
    assert "/opt/hyhal/bin" in path
    libraries = environment["LD_LIBRARY_PATH"].split(":")
    for folder in ("/opt/dtk-24.04.1/lib", "/opt/dtk-24.04.1/hip/lib", "/opt/hyhal/lib"):
        assert folder in libraries
    assert "" not in libraries, "an empty entry means the current folder"
    assert environment["ROCM_PATH"] == "/opt/dtk-24.04.1"
    assert environment["PADDLE_STACKS_BACKEND"] == BACKEND


def test_roots_interactive_shell_has_the_same_programs(host: Any, container: Container) -> None:
    # DTK's env.sh, which only this shell reads, puts its own folders first.
    find = "command -v python3; command -v hipcc"
    command = ["bash", "-ic", find]
    status, output = container.exec_run(
        command, user="root", environment={"HOME": "/root"}, stderr=False
    )
    assert status == 0
    assert output.decode().split() == host.check_output(find).split()


def test_the_compiler_answers(host: Any) -> None:
    assert "clang version" in host.check_output("hipcc --version")

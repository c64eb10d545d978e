"""The Docker executor: container options, lines and errors. Needs no engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from paddle_stacks.executors import docker
from paddle_stacks.executors.docker import Lines, container_options
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Backend, backend, make
from paddle_stacks.settings import Settings


def test_the_options_of_the_container_match_the_plan() -> None:
    settings = Settings(
        root=Path("/repo"),
        workspace=Path("/ws"),
        ca_bundle=Path("/ca.pem"),
        index_url="https://me:hidden@host/simple",
    )
    backend = Backend("dcu", "", devices=("/dev/kfd",), groups=("video",), ulimits={"memlock": -1})
    job = dataclasses.replace(JOBS["fetch"], computes=True)  # with devices and with secrets
    plan = make(job, ["x"], settings, backend, user="1:2", suffix="s", machine_mib=1000)
    options = container_options(plan, {"pip.conf": "/private/pip.conf"})
    mounts = [(m["Source"], m["Target"], m["ReadOnly"]) for m in options.pop("mounts")]
    assert mounts == [
        ("/ws/models", "/workspace/models", False),
        ("/ws/data", "/workspace/data", True),
        ("/ws/runs", "/workspace/runs", True),
        ("/ca.pem", "/run/secrets/ca_bundle", True),
        ("/private/pip.conf", "/run/secrets/pip.conf", True),
    ]
    limits = [(u["Name"], u["Soft"], u["Hard"]) for u in options.pop("ulimits")]
    assert limits == [("memlock", -1, -1)]
    logs = options.pop("log_config")
    assert (logs["Type"], logs["Config"]) == ("local", {"max-size": "32m", "max-file": "3"})
    assert options == {
        "image": "paddle-stacks/infer:dcu",
        "command": ["fetch", "x"],
        "name": "paddle-stacks-fetch-s",
        "user": "1:2",
        "network_mode": "bridge",
        "environment": dict(plan.environment),
        "read_only": True,
        "privileged": False,
        "ipc_mode": None,
        "cap_add": [],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "tmpfs": {"/tmp": "size=2048m,mode=1777"},
        "shm_size": "1024m",
        "mem_limit": "950m",
        "pids_limit": 4096,
        "devices": ["/dev/kfd:/dev/kfd:rwm"],
        "group_add": ["video"],
        "labels": dict(plan.labels),
        "ports": {},
    }
    assert not any("hidden" in str(value) for value in options.values())


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b\n", b"c"], ["ab", "c"]),
        (["é".encode()[:1], "é".encode()[1:] + b"\n"], ["é"]),
        ([b"\xff\n"], ["\N{REPLACEMENT CHARACTER}"]),
        ([b"1%\r2%\r3%\n", b"a\r\n"], ["3%", "a"]),
        ([b"\n\n"], ["", ""]),
        ([], []),
    ],
)
def test_chunks_are_split_into_lines(chunks: list[bytes], lines: list[str]) -> None:
    cutter = Lines()
    assert [line for chunk in chunks for line in cutter.feed(chunk)] + cutter.rest() == lines


@pytest.mark.parametrize(
    ("explanation", "damaged"),
    [
        ("layer does not exist", True),
        (
            "error mounting overlay: stat /var/lib/docker/overlay2/x: no such file or directory",
            True,
        ),
        ("readlink /var/lib/docker/overlay2/l: invalid argument", True),
        ("failed to stat parent: snapshot sha256:12 does not exist: not found", True),
        ("content digest sha256:12: not found", True),
        ("driver failed programming external connectivity: address already in use", False),
        ("could not select device driver", False),
    ],
)
def test_a_damaged_layer_has_a_remedy_that_repairs_it(
    tmp_path: Path, explanation: str, damaged: bool
) -> None:
    root = Path(__file__).parents[2]
    platform = backend.load("cpu", root)
    plan = make(JOBS["infer"], [], Settings(root, tmp_path), platform, user="1:1", suffix="x")
    problem = docker._damaged_image(plan, explanation)
    assert (problem is not None) == damaged
    if problem is not None:
        forget, prune, build = problem.remedy.split("; ")
        assert forget.startswith("docker image rm --force $(docker images")
        assert prune == "docker builder prune --all --force"
        assert build == plan.build_command

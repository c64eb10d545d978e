"""The services of docker-compose.yml have the rights of the jobs' plans. Needs no engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from entrypoints.runtime.nodes import Nodes
from paddle_stacks import launch
from paddle_stacks.jobs import schema
from paddle_stacks.jobs.arguments import parser
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.jobs.serving import PUBLISHED_ADDRESS
from paddle_stacks.plan import Plan, backend, make, show
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
NODES = ("node-0", "node-1")
"""Two machines that train together: the service ``pretrain`` with a network."""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    if not shutil.which("docker"):
        pytest.skip("the docker command is not installed")
    command = ["docker", "compose", "--profile", "*", "config", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def plan(job: str) -> Plan:
    settings = Settings(root=ROOT, workspace=ROOT)
    return make(JOBS[job], [], settings, backend.load("cpu", ROOT), user="1000:1000", suffix="test")


def test_there_is_a_service_for_every_job(services: dict[str, Any]) -> None:
    assert set(services) == {*JOBS, *NODES}


@pytest.mark.parametrize("job", JOBS)
def test_a_service_has_the_rights_of_its_plan(services: dict[str, Any], job: str) -> None:
    service, wanted = services[job], plan(job)
    assert service["image"] == wanted.image
    assert service["build"]["target"] == JOBS[job].image
    assert service["read_only"] is wanted.read_only
    assert tuple(service["cap_drop"]) == wanted.cap_drop
    assert tuple(service["security_opt"]) == wanted.security_opt
    assert service["tmpfs"] == [f"/tmp:{show.tmpfs_options(wanted)}"]
    assert service["pids_limit"] == wanted.pids
    assert int(service["shm_size"]) == wanted.shm_mib * 2**20
    assert service["stop_grace_period"] == f"{wanted.grace_seconds}s"
    assert service["network_mode"] == wanted.network
    assert service["logging"] == {"driver": show.LOG_DRIVER, "options": show.LOG_OPTIONS}
    found = {v["target"]: (v["source"], v.get("read_only", False)) for v in service["volumes"]}
    assert found.pop("/workspace/configs") == (str(ROOT / "configs"), True)
    assert {target: source for target, (source, _) in found.items()} == {
        m.target: m.source for m in wanted.mounts
    }
    # Whatever the arguments are: a job whose outputs can be anywhere has a place for them.
    writable = {target.rpartition("/")[2] for target, (_, fixed) in found.items() if not fixed}
    assert writable >= set(JOBS[job].writes)
    assert bool(writable) is (job != "serve")
    assert all(not v["bind"].get("create_host_path") for v in service["volumes"])
    assert not service.get("privileged") and "devices" not in service and "pid" not in service


@pytest.mark.parametrize("job", JOBS)
def test_the_only_capabilities_are_those_that_change_the_user_and_reach_it(
    services: dict[str, Any], job: str
) -> None:
    assert services[job]["cap_add"] == ["KILL", "SETGID", "SETPCAP", "SETUID"]
    assert "user" not in services[job], "the entry decides"


@pytest.mark.parametrize("job", JOBS)
def test_a_service_starts_as_its_image_does(services: dict[str, Any], job: str) -> None:
    found = re.search(r"^ENTRYPOINT (\[.*\])", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    assert services[job]["entrypoint"] == [*json.loads(found[1]), job]


def test_finetune_waits_for_its_model(services: dict[str, Any]) -> None:
    condition = services["finetune"]["depends_on"]["fetch"]["condition"]
    assert condition == "service_completed_successfully"
    config = ROOT / services["finetune"]["command"][-1]
    assert json.loads(config.read_text())["model_name_or_path"] in services["fetch"]["command"]


def test_only_fetch_and_serve_get_secrets(services: dict[str, Any]) -> None:
    with_secrets = {job for job, service in services.items() if service.get("secrets")}
    assert with_secrets == {"fetch", "fetch-data", "serve"}


def test_only_serve_is_reached_and_only_from_this_machine(services: dict[str, Any]) -> None:
    assert [job for job, service in services.items() if service.get("ports")] == ["serve"]
    (port,) = services["serve"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "8000", 8000)
    settings = Settings(root=ROOT, workspace=ROOT)
    made = launch.make_plan("serve", ["--model", "smollm2-135m-instruct"], settings)
    assert [(p.address, str(p.number)) for p in made.ports] == [("127.0.0.1", port["published"])]
    assert list(made.argv) == ["serve", *services["serve"]["command"]]


def test_serve_knows_where_its_port_is_published() -> None:
    if not shutil.which("docker"):
        pytest.skip("the docker command is not installed")
    for address in ("127.0.0.1", "0.0.0.0", "192.0.2.1"):
        done = subprocess.run(
            ["docker", "compose", "--profile", "serve", "config", "--format", "json"],
            cwd=ROOT,
            env={**os.environ, "SERVE_ADDRESS": address},
            check=True,
            capture_output=True,
            text=True,
        )
        service = json.loads(done.stdout)["services"]["serve"]
        assert service["ports"][0]["host_ip"] == address
        assert service["environment"] == {PUBLISHED_ADDRESS: address}


@pytest.mark.parametrize("name", NODES)
def test_a_node_is_pretrain_with_a_network_of_the_nodes_own(
    services: dict[str, Any], name: str
) -> None:
    own = {"command", "hostname", "networks", "profiles", "restart", "volumes"}
    node, job = services[name], services["pretrain"]
    *shared, config = node["volumes"]
    assert shared == job["volumes"] and config["read_only"]
    same = {key: value for key, value in job.items() if key not in {*own, "network_mode"}}
    assert {key: value for key, value in node.items() if key not in own} == same
    assert node["hostname"] == name, "the others look for it by its name"
    assert node["networks"] == {"nodes": None} and node["restart"] == "on-failure:5"
    assert node["profiles"] == ["two-nodes"]
    arguments = parser("pretrain").parse_args(node["command"])
    assert Nodes.of(arguments, {}) == Nodes(2, "node-0:29500", NODES.index(name))


def test_the_two_nodes_are_told_the_same(services: dict[str, Any]) -> None:
    first, second = (services[name]["command"] for name in NODES)
    config = parser("pretrain").parse_args(first).config
    assert schema.load(ROOT / config, [], job="pretrain", backend="cpu", world=2)
    assert first[:-1] == second[:-1]
    assert (first[-1], second[-1]) == ("--rank=0", "--rank=1")


@pytest.mark.parametrize(
    ("profiles", "wanted"),
    [
        ([], {"export", "infer"}),
        (["two-nodes"], {"export", "infer", *NODES}),
        (["finetune"], {"export", "infer", "fetch", "finetune"}),
        (["serve"], {"export", "infer", "fetch", "serve"}),
    ],
)
def test_what_a_plain_up_starts(profiles: list[str], wanted: set[str]) -> None:
    if not shutil.which("docker"):
        pytest.skip("the docker command is not installed")
    chosen = [word for name in profiles for word in ("--profile", name)]
    command = ["docker", "compose", *chosen, "config", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert set(found["services"]) == wanted
    for name in wanted - {"fetch", "finetune", "serve", *NODES}:
        assert found["services"][name]["command"] == ["--help"], "it trains nothing unasked"
    if "two-nodes" in profiles:
        assert found["networks"]["nodes"]["internal"] is True

"""One profile, four engines: what docker-py, Compose, Slurm and Kubernetes are told is the same.

Each rendering is read on its own terms into one form, and held against the others and
against configs/backends/dcu.toml. Needs no engine: Compose is asked what it understood,
and Slurm's script is run with stand-ins for Slurm's and Docker's commands.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from paddle_stacks import toml
from paddle_stacks.dcu.host import look
from paddle_stacks.errors import RequestError
from paddle_stacks.executors.docker import container_options
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import PLAIN_ENVIRONMENT, Backend, Plan, backend, make
from paddle_stacks.plan.kubernetes import RUN_LABEL, Placement, as_kubernetes
from paddle_stacks.plan.slurm import as_slurm
from paddle_stacks.request import from_words
from paddle_stacks.settings import Settings
from tests.support.workspaces import make_workspace

ROOT = Path(__file__).parents[2]
DCU = backend.load("dcu", ROOT)
CARDS = (4, 6)


# ------------------------------------------------------------------------ the one form


@dataclass(frozen=True)
class Rights:
    """What a container may do and is given, whichever engine was told so."""

    image: str
    argv: tuple[str, ...]
    devices: frozenset[tuple[str, str]]
    folders: frozenset[tuple[str, str, bool]]
    workspace: frozenset[tuple[str, bool]]
    groups: frozenset[int | str]
    shm_mib: float | None
    tmp_mib: float
    pids: int
    ulimits: Mapping[str, tuple[int, int]]
    environment: Mapping[str, str]
    cap_add: frozenset[str]
    cap_drop: frozenset[str]
    no_new_privileges: bool
    seccomp: str
    privileged: bool
    read_only: bool
    user: str
    network: str
    ipc: str


# What an engine cannot be told, or is told otherwise, and why that is no other profile.
EXCEPTIONS: dict[str, dict[str, str]] = {
    "docker-py": {},
    "slurm": {},
    "compose": {
        "argv": "a service runs what the command line says; its own is tested elsewhere",
        "user": "Compose does not know its caller: the entry becomes the workspace's owner",
        "cap_add": "what becoming another user and its signals take; the entry drops it",
        "environment": "the launcher counts the visible cards itself without PADDLE_DEVICES",
        "workspace": "a service has what all its commands need, and all configurations",
    },
    "kubernetes": {
        "devices": "the device plugin passes them, for the resource that is asked for",
        "ulimits": "Kubernetes has none: they are the container runtime's",
        "pids": "Kubernetes has none for a pod: the node's kubelet has one for all, podPidsLimit",
        "environment": "the device plugin picks the cards, and the container has no others",
    },
}


def of_docker_py(options: Mapping[str, Any]) -> Rights:
    mounts = {(m["Source"], m["Target"], m["ReadOnly"]) for m in options["mounts"]}
    ipc = options["ipc_mode"] or ""
    return Rights(
        image=options["image"],
        argv=tuple(options["command"]),
        devices=frozenset((d.split(":")[0], d.split(":")[1]) for d in options["devices"]),
        **_mounts(mounts),
        groups=_numbers(options["group_add"]),
        shm_mib=None if ipc else _mib(options["shm_size"]),
        tmp_mib=_tmp(options["tmpfs"]["/tmp"]),
        pids=options["pids_limit"] or 0,
        ulimits={u["Name"]: (u["Soft"], u["Hard"]) for u in options["ulimits"]},
        environment=_environment(options["environment"]),
        cap_add=frozenset(options["cap_add"]),
        cap_drop=frozenset(options["cap_drop"]),
        **_security(options["security_opt"]),
        privileged=options["privileged"],
        read_only=options["read_only"],
        user=_user(options["user"]),
        network=options["network_mode"],
        ipc=ipc,
    )


def _compose_limits(limits: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return soft and hard limits; as JSON, Compose writes a limit of 0 as an empty object."""
    pairs = {}
    for name, limit in limits.items():
        soft_hard = limit if isinstance(limit, dict) else {"soft": limit, "hard": limit}
        pairs[name] = (soft_hard.get("soft", 0), soft_hard.get("hard", 0))
    return pairs


def of_compose(service: Mapping[str, Any], groups: frozenset[int | str]) -> Rights:
    mounts = {(v["source"], v["target"], v.get("read_only", False)) for v in service["volumes"]}
    return Rights(
        image=service["image"],
        argv=tuple(service["command"]),
        devices=frozenset((d["source"], d["target"]) for d in service["devices"]),
        **_mounts(mounts),
        groups=groups,
        shm_mib=int(service["shm_size"]) / 2**20,
        tmp_mib=_tmp(service["tmpfs"][0].removeprefix("/tmp:")),
        pids=service["pids_limit"],
        ulimits=_compose_limits(service["ulimits"]),
        environment={k: v for k, v in service["environment"].items() if v is not None},
        cap_add=frozenset(service["cap_add"]),
        cap_drop=frozenset(service["cap_drop"]),
        **_security(service["security_opt"]),
        privileged=service.get("privileged", False),
        read_only=service["read_only"],
        user=service.get("user", "0:0"),
        network=service["network_mode"],
        ipc=service.get("ipc", ""),
    )


def of_docker_words(words: Sequence[str]) -> Rights:
    """Read a ``docker run`` command line, as its own parser does: options, image, the rest."""
    parser = argparse.ArgumentParser()
    for flag in ("--rm", "--read-only", "--privileged"):
        parser.add_argument(flag, action="store_true")
    for option in ("name", "user", "network", "ipc", "shm-size", "stop-timeout", "tmpfs", "pull"):
        parser.add_argument(f"--{option}", default="")
    parser.add_argument("--pids-limit", type=int, default=0)
    parser.add_argument("--memory")
    for option in ("cap-add", "cap-drop", "security-opt", "device", "group-add", "ulimit"):
        parser.add_argument(f"--{option}", action="append", default=[])
    parser.add_argument("--log-driver")
    for option in ("label", "mount", "env", "log-opt"):
        parser.add_argument(f"--{option}", action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("argv", nargs=argparse.REMAINDER)
    assert words[0] == "run"
    found = parser.parse_args(words[1:])
    limits = [limit.partition("=")[::2] for limit in found.ulimit]
    devices = [device.split(":") for device in found.device]
    return Rights(
        image=found.image,
        argv=tuple(found.argv),
        devices=frozenset((d[0], d[-1]) for d in devices),
        **_mounts({_mount(line) for line in found.mount}),
        groups=_numbers(found.group_add),
        shm_mib=None if found.ipc else _mib(found.shm_size),
        tmp_mib=_tmp(found.tmpfs.removeprefix("/tmp:")),
        pids=found.pids_limit,
        ulimits={n: (int(v.split(":")[0]), int(v.split(":")[1])) for n, v in limits},
        environment=dict(v.split("=", 1) for v in found.env if "=" in v),
        cap_add=frozenset(found.cap_add),
        cap_drop=frozenset(found.cap_drop),
        **_security(found.security_opt),
        privileged=found.privileged,
        read_only=found.read_only,
        user=_user(found.user),
        network=found.network,
        ipc=found.ipc,
    )


def of_kubernetes(documents: Sequence[Mapping[str, Any]]) -> Rights:
    job = documents[0]
    pod = pod_of(job)
    (container,) = pod["containers"]
    own, shared = container["securityContext"], pod["securityContext"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts, used = set(), set()
    memory = {}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        used.add(mount["name"])
        if "emptyDir" in volume:
            assert volume["emptyDir"]["medium"] == "Memory"
            memory[mount["mountPath"]] = _mib(volume["emptyDir"]["sizeLimit"])
        else:
            source = volume["hostPath"]["path"] if "hostPath" in volume else mount["subPath"]
            mounts.add((source, mount["mountPath"], mount.get("readOnly", False)))
    assert used == set(volumes), "every volume is mounted"
    (folders,) = pod["initContainers"]
    assert folders["command"][:2] == ["mkdir", "-p"] and folders["image"] == container["image"]
    closed = [d for d in documents[1:] if d["kind"] == "NetworkPolicy"]
    network = "host" if pod.get("hostNetwork") else "none" if closed else "pod"
    return Rights(
        image=container["image"],
        argv=tuple(word.replace("$$", "$") for word in container["args"]),
        devices=frozenset(),
        **_mounts(mounts),
        groups=frozenset(shared.get("supplementalGroups", [])),
        shm_mib=memory.get("/dev/shm"),
        tmp_mib=memory["/tmp"],
        pids=0,
        ulimits={},
        environment={v["name"]: v["value"] for v in container["env"] if "value" in v},
        cap_add=frozenset(own["capabilities"].get("add", [])),
        cap_drop=frozenset(own["capabilities"]["drop"]),
        no_new_privileges=not own.get("allowPrivilegeEscalation", True),
        seccomp="" if shared["seccompProfile"] == {"type": "RuntimeDefault"} else "unconfined",
        privileged=own.get("privileged", False),
        read_only=own["readOnlyRootFilesystem"],
        user=f"{shared['runAsUser']}:{shared['runAsGroup']}",
        network=network,
        ipc="host" if pod.get("hostIPC") else "",
    )


def pod_of(job: Mapping[str, Any]) -> dict[str, Any]:
    spec = job["spec"]
    if job["kind"] == "PaddleJob":
        spec = spec["paddleReplicaSpecs"]["Worker"]
    found: dict[str, Any] = spec["template"]["spec"]
    return found


def _mounts(found: set[tuple[str, str, bool]]) -> dict[str, Any]:
    parts = {m for m in found if m[1].startswith("/workspace")}
    assert "/workspace" not in {target for _, target, _ in parts}, "never the workspace itself"
    return {
        "folders": frozenset(found - parts),
        "workspace": frozenset((target, read_only) for _, target, read_only in parts),
    }


def _mount(line: str) -> tuple[str, str, bool]:
    fields = next(csv.reader([line]))
    pairs = dict(field.split("=", 1) for field in fields if "=" in field)
    assert pairs["type"] == "bind"
    return pairs["source"], pairs["target"], "readonly" in fields


def _security(options: Sequence[str]) -> dict[str, Any]:
    assert set(options) <= {"no-new-privileges", "seccomp=unconfined"}
    return {
        "no_new_privileges": "no-new-privileges" in options,
        "seccomp": "unconfined" if "seccomp=unconfined" in options else "",
    }


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    # How a job reports to the host that runs it; nobody reads that elsewhere.
    return {k: v for k, v in given.items() if k not in PLAIN_ENVIRONMENT}


def _numbers(groups: Sequence[str]) -> frozenset[int | str]:
    return frozenset(int(g) if g.isdecimal() else g for g in groups)


def _user(text: str) -> str:
    return "0:0" if text == "root" else text


def _mib(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(m|Mi)", text).groups()  # type: ignore[union-attr]
    assert unit
    return float(number)


def _tmp(options: str) -> float:
    size, mode = options.split(",")
    assert mode == "mode=1777"
    return _mib(size.removeprefix("size="))


# ------------------------------------------------------------------------ the renderings


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host's root whose nodes are files: only their groups are looked at."""
    root = tmp_path / "host root"
    (root / "dev" / "dri" / "by-path").mkdir(parents=True)
    (root / "opt" / "hyhal").mkdir(parents=True)
    for name, group in (("kfd", 109), ("mkfd", 109), ("dri/card1", 44), ("dri/renderD128", 109)):
        node = root / "dev" / name
        node.touch(mode=0o660)
        if os.geteuid() == 0:
            os.chown(node, 0, group)
    return root


def plan(host: Path, profile: str = "", job: str = "pretrain", **changes: Any) -> Plan:
    platform = backend.load("dcu", ROOT, profile)
    settings = Settings(root=ROOT, workspace=changes.pop("workspace", host.parent))
    made = make(
        JOBS[job],
        changes.pop("argv", ["--config", "my.json"]),
        settings,
        platform,
        user="1234:1235",
        suffix="x1",
        host=look(host),
        cards=CARDS,
    )
    return dataclasses.replace(made, **changes)


# What Slurm and Docker answer. A step runs on each node in turn; `docker run` keeps its words.
STAND_INS = {
    "srun": """
        for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
            SLURM_NODEID=$node SLURMD_NODENAME=dcu0$((node + 1)) bash -c "${!#}" || exit $?
        done""",
    "docker": """
        if [[ $1 == rm ]]; then echo "$*" >> "$OUT/removed"; exit 0; fi
        printf '%s\\0' "$@" > "$OUT/words.$SLURM_NODEID"
        env | grep ^PADDLE_ > "$OUT/environment.$SLURM_NODEID"
        exit "${STATUS:-0}" """,
    "scontrol": """
        if [[ "$*" == "show hostnames dcu[01-02]" ]]; then printf 'dcu01\\ndcu02\\n'
        elif [[ $1 == show ]]; then echo "$3"
        else printf '%s\\n' "$ALLOCATION"; fi""",
    "getent": """echo "192.0.2.1${2: -1}  STREAM $2" """,
    "hostname": "echo $SLURMD_NODENAME",
}
# As Slurm 22.05 prints it: nodes alike in one line, each kind of resource with its cards.
ALLOCATION = """\
   JOB_GRES=dcu:4
     Nodes=dcu[01-02] CPU_IDs=0-7 Mem=0 GRES=nic:1(IDX:0),dcu:2(IDX:4,6)"""


def run_slurm(
    script: str, folder: Path, nodes: int = 1, **environment: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    commands, out = folder / "bin", folder / "out"
    for made in (commands, out):
        made.mkdir(exist_ok=True)
    for name, text in STAND_INS.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    done = subprocess.run(
        ["bash"],
        input=script,
        env={
            "PATH": f"{commands}:{os.environ['PATH']}",
            "OUT": str(out),
            "ALLOCATION": ALLOCATION,
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_JOB_NODELIST": "dcu[01-02]" if nodes > 1 else "dcu01",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done, out


def words(out: Path, node: int = 0) -> list[str]:
    return (out / f"words.{node}").read_text().split("\0")[:-1]


def slurm(host: Path, folder: Path, made: Plan, platform: Backend = DCU) -> Rights:
    done, out = run_slurm(as_slurm(made, platform), folder)
    assert done.returncode == 0, done.stderr
    return of_docker_words(words(out))


def kubernetes(made: Plan, nodes: int = 1, platform: Backend = DCU) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(as_kubernetes(made, platform, nodes)))


def compose(**environment: str) -> dict[str, Any]:
    if not shutil.which("docker"):
        pytest.skip("the docker command is not installed")
    # /dev/null in the place of .env, which knows the versions of this checkout's last build.
    command = ["docker", "compose", "--env-file", "/dev/null", "-f", "docker-compose.yml"]
    command += ["-f", "docker-compose.dcu.yml", "--profile", "*", "config", "--format", "json"]
    given = {k: v for k, v in os.environ.items() if not k.startswith(("DCU_", "HIP_"))}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**given, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def joined_groups(service: Mapping[str, Any], host: Path, folder: Path) -> frozenset[int | str]:
    """Run what a service starts on the host's nodes, and return the groups that it joins."""
    tini, separator, entry, job = service["entrypoint"]
    assert (tini, separator) == ("/usr/bin/tini", "--")
    assert entry == "/usr/local/bin/entry" and job in JOBS
    commands = folder / "setpriv-bin"
    commands.mkdir(exist_ok=True)
    (commands / "setpriv").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (commands / "setpriv").chmod(0o755)
    # "/dev/null" is written "/dev/null" in every root.
    text = (ROOT / "images" / "base" / "entry").read_text().replace("/dev/null", "/null")
    text = text.replace("/dev/", f'"{host}"/dev/').replace("/null", "/dev/null")
    (folder / "entry").write_text(text.replace("/workspace", str(folder)))
    done = subprocess.run(
        ["sh", str(folder / "entry"), job],
        env={"PATH": f"{commands}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [w for w in done.stdout.splitlines() if w.startswith("--groups=")]
    assert done.stdout.splitlines()[-1] == job, "the entry goes on"
    return _numbers(found[0].removeprefix("--groups=").split(","))


def rights(engine: str, host: Path, folder: Path, profile: str = "") -> Rights:
    platform = backend.load("dcu", ROOT, profile)
    made = plan(host, profile)
    if engine == "docker-py":
        return of_docker_py(container_options(made, {}))
    if engine == "slurm":
        return slurm(host, folder, made, platform)
    if engine == "kubernetes":
        return of_kubernetes(kubernetes(made, platform=platform))
    given = {"DCU_ROOT": str(host), "DCU_MKFD": "mkfd", "HIP_VISIBLE_DEVICES": "4,6"}
    service = compose(**given)[made.job]
    return of_compose(service, joined_groups(service, host, folder))


# ------------------------------------------------------------------------ held together


@pytest.mark.parametrize("engine", EXCEPTIONS)
def test_every_engine_is_told_the_same(engine: str, host: Path, tmp_path: Path) -> None:
    wanted = dataclasses.asdict(of_docker_py(container_options(plan(host), {})))
    found = dataclasses.asdict(rights(engine, host, tmp_path))
    differing = {key for key in wanted if found[key] != wanted[key]}
    assert differing == set(EXCEPTIONS[engine])


@pytest.mark.parametrize("engine", EXCEPTIONS)
def test_every_engine_follows_the_file(engine: str, host: Path, tmp_path: Path) -> None:
    file = toml.read(ROOT / "configs" / "backends" / "dcu.toml")
    found = rights(engine, host, tmp_path)
    nodes = {(f"{host}{path}", path) for path in file["devices"] + file["optional_devices"]}
    assert found.devices == nodes or "devices" in EXCEPTIONS[engine]
    assert found.folders == {(f"{host}{path}", path, True) for path in file["folders"]}
    limits = {name: (n, n) for name, n in file["ulimits"].items()}
    assert found.ulimits == limits or "ulimits" in EXCEPTIONS[engine]
    assert (found.shm_mib, found.tmp_mib) == (file["shm_mib"], file["tmp_mib"])
    assert found.pids == file["pids"] or "pids" in EXCEPTIONS[engine]
    assert file["environment"].items() <= found.environment.items()
    groups = {109, 44} if os.geteuid() == 0 else {os.getegid()}
    assert found.groups == groups, "by number, of these very nodes"


@pytest.mark.parametrize("engine", EXCEPTIONS)
def test_every_engine_gives_the_least(engine: str, host: Path, tmp_path: Path) -> None:
    found = rights(engine, host, tmp_path)
    assert found.cap_drop == {"ALL"} and found.no_new_privileges and found.read_only
    assert not found.privileged and found.seccomp == "" and found.ipc == ""
    assert found.network == "none"
    writable = {target for target, read_only in found.workspace if not read_only}
    assert writable <= {"/workspace/models", "/workspace/data", "/workspace/runs"}
    if engine == "compose":
        assert found.cap_add == {"KILL", "SETGID", "SETPCAP", "SETUID"}
    else:
        assert found.user == "1234:1235" and found.cap_add == set()


@pytest.mark.parametrize("engine", ["slurm", "kubernetes"])
@pytest.mark.parametrize("profile", ["debug", "doc"])
def test_the_other_profiles_reach_the_clusters(
    engine: str, profile: str, host: Path, tmp_path: Path
) -> None:
    platform = backend.load("dcu", ROOT, profile)
    made = plan(host, profile, groups=("44",))
    wanted = dataclasses.asdict(of_docker_py(container_options(made, {})))
    if engine == "slurm":
        found = slurm(host, tmp_path, made, platform)
    else:
        found = of_kubernetes(kubernetes(made, platform=platform))
    if engine == "slurm" and platform.device_groups:
        wanted["groups"] = found.groups  # looked up on the node, tested above
    ours = dataclasses.asdict(found)
    same = {"pids"} if profile == "doc" else set()  # there no engine has a limit
    assert {key for key in wanted if ours[key] != wanted[key]} == set(EXCEPTIONS[engine]) - same


# ------------------------------------------------------------------------ Compose


def test_every_service_has_the_profile(host: Path) -> None:
    services = compose(DCU_ROOT=str(host))
    nodes = {name: services.pop(name) for name in ("node-0", "node-1")}
    assert set(services) == set(JOBS)
    for name, node in nodes.items():
        card = {"HIP_VISIBLE_DEVICES": name[-1]}
        assert node["environment"] == {**services["pretrain"]["environment"], **card}
        for key in (
            "image",
            "build",
            "devices",
            "shm_size",
            "tmpfs",
            "ulimits",
            "pids_limit",
        ):
            assert node[key] == services["pretrain"][key], (name, key)
    for job, service in services.items():
        assert service["image"] == f"paddle-stacks/{JOBS[job].image}:dcu"
        assert service["build"]["target"] == JOBS[job].image
        assert service["entrypoint"][-1] == job
        if not JOBS[job].computes:
            assert "devices" not in service
            continue
        for key in ("devices", "shm_size", "tmpfs", "ulimits", "pids_limit"):
            assert service[key] == services["pretrain"][key], (job, key)
        targets = [
            [v["target"] for v in each["volumes"]] for each in (service, services["pretrain"])
        ]
        assert targets[0] == targets[1], job
        assert service["network_mode"] == ("bridge" if job in ("fetch", "serve") else "none")
        wanted = {*services["pretrain"]["environment"]}
        assert wanted <= set(service["environment"])


def test_a_device_that_not_every_host_has_is_asked_for() -> None:
    service = compose()["infer"]
    assert [device["target"] for device in service["devices"]] == ["/dev/kfd", "/dev/dri"]
    assert service["environment"]["HIP_VISIBLE_DEVICES"] is None, "an empty one hides every card"


def test_a_simulated_dcu_is_a_matter_of_variables() -> None:
    service = compose(DCU_BACKEND="dcu-sim", DCU_LOCK="cpu", DCU_MEMLOCK="65536")["finetune"]
    assert service["image"] == "paddle-stacks/train:dcu-sim"
    assert service["build"]["args"]["BACKEND"] == "dcu-sim"
    assert service["build"]["args"]["LOCK"] == "cpu"
    limits = {"core": (0, 0), "memlock": (65536, 65536), "stack": (-1, -1)}
    assert _compose_limits(service["ulimits"]) == limits


def test_compose_builds_what_the_file_says() -> None:
    build = compose()["infer"]["build"]
    file = toml.read(ROOT / "configs" / "backends" / "dcu.toml")
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert build["args"]["BACKEND"] == build["labels"]["paddle-stacks.backend"] == "dcu"
    assert build["args"]["LOCK"] == file["lock"]
    assert build["args"]["GFX_ARCHS"] == ";".join(file["architectures"])
    assert "DTK_IMAGE" not in build["args"], "the Dockerfile has the default"
    assert build["additional_contexts"]["paddlenlp"] == file["paddlenlp"]
    assert build["labels"]["paddle-stacks.paddlenlp.source"] == file["paddlenlp"]
    assert build["labels"]["paddle-stacks.ops.archs"] == build["args"]["GFX_ARCHS"]
    for name in build["additional_contexts"]:
        assert f"\nFROM scratch AS {name}\n" in dockerfile, "what the context replaces"


def test_the_services_fine_tune_what_they_fetch() -> None:
    services = compose()
    config = ROOT / services["finetune"]["command"][-1]
    assert json.loads(config.read_text())["model_name_or_path"] in services["fetch"]["command"]


# ------------------------------------------------------------------------ Slurm


ODD = ["--prompt", 'it\'s "so" $(x) `y` $HOME\\', "--stop", "", "--system", "两\nlines 🙂"]


@pytest.mark.parametrize("name", ["plain", 'it\'s a, "b", 100% #1', "两 $HOME `x`"])
def test_what_has_to_be_quoted_arrives(host: Path, tmp_path: Path, name: str) -> None:
    made = plan(host, job="infer", argv=ODD, workspace=tmp_path / name)
    script = as_slurm(made, DCU)
    done, out = run_slurm(script, tmp_path)
    assert done.returncode == 0, done.stderr
    given = words(out)
    assert of_docker_words(given).argv == ("infer", *ODD)
    mounts = [given[i + 1] for i, word in enumerate(given) if word == "--mount"]
    assert (str(tmp_path / name / "runs"), "/workspace/runs", True) in map(_mount, mounts)
    (log,) = re.findall(r"^#SBATCH --output=(.*)$", script, re.MULTILINE)
    read = subprocess.run(["bash", "-c", f"printf %s {log}"], capture_output=True, text=True)
    assert read.stdout == f"{str(tmp_path / name).replace('%', '%%')}/%x-%j.log"


def test_the_script_asks_for_the_cards_and_not_for_which(host: Path) -> None:
    lines = as_slurm(plan(host), DCU, hours=6).splitlines()
    told = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert lines[0] == "#!/bin/bash"
    assert told == [
        "--job-name=paddle-stacks-pretrain",
        *("--nodes=1", "--ntasks-per-node=1", "--gres=dcu:2", "--time=6:00:00"),
        *("--signal=TERM@90", "--requeue", "--open-mode=append"),
        f"--output={host.parent}/%x-%j.log",
    ]
    # sbatch stops reading at the first line that is a command.
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])


@pytest.mark.parametrize(
    ("allocation", "cards"),
    [
        ("     Nodes=dcu01 CPU_IDs=0-7 Mem=0 GRES=dcu:4(IDX:0-3)", "0,1,2,3"),
        ("     Nodes=dcu01 CPU_IDs=0 Mem=0 GRES=dcu:k100_ai:3(IDX:0,2-3)", "0,2,3"),
        (
            "     Nodes=dcu02 CPU_IDs=0 Mem=0 GRES=dcu:1(IDX:0)\n"
            "     Nodes=dcu01 CPU_IDs=0 Mem=0 GRES=dcu:1(IDX:7)",
            "7",
        ),
    ],
)
def test_the_container_gets_the_cards_that_slurm_gave(
    host: Path, tmp_path: Path, allocation: str, cards: str
) -> None:
    done, out = run_slurm(as_slurm(plan(host), DCU), tmp_path, ALLOCATION=allocation)
    assert done.returncode == 0, done.stderr
    assert of_docker_words(words(out)).environment["HIP_VISIBLE_DEVICES"] == cards


@pytest.mark.parametrize(
    ("given", "memory"), [({"SLURM_MEM_PER_NODE": "2048"}, ["2048m"]), ({}, [])]
)
def test_the_container_gets_the_memory_that_slurm_gave(
    host: Path, tmp_path: Path, given: dict[str, str], memory: list[str]
) -> None:
    made = plan(host, memory_mib=64)  # this machine's, which says nothing of the node's
    done, out = run_slurm(as_slurm(made, DCU), tmp_path, **given)
    assert done.returncode == 0, done.stderr
    line = words(out)
    assert [line[i + 1] for i, word in enumerate(line) if word == "--memory"] == memory


def test_cards_that_slurm_does_not_name_are_not_taken(host: Path, tmp_path: Path) -> None:
    script = as_slurm(plan(host), DCU)
    silent = "     Nodes=dcu01 CPU_IDs=0 Mem=0 GRES=dcu:2(CNT:2)"
    done, out = run_slurm(script, tmp_path, ALLOCATION=silent)
    assert done.returncode == 3
    assert "does not report the devices of dcu01" in done.stderr
    assert not (out / "words.0").exists()
    done, out = run_slurm(script, tmp_path, ALLOCATION=silent, DCU_CARDS="0,1")
    assert done.returncode == 0
    assert of_docker_words(words(out)).environment["HIP_VISIBLE_DEVICES"] == "0,1"


def test_a_node_without_the_optional_device(host: Path, tmp_path: Path) -> None:
    script = as_slurm(plan(host), DCU)
    (host / "dev" / "mkfd").unlink()
    done, out = run_slurm(script, tmp_path)
    assert done.returncode == 0, done.stderr
    targets = {target for _, target in of_docker_words(words(out)).devices}
    assert targets == {"/dev/kfd", "/dev/dri"}


def test_the_nodes_meet_at_the_first(host: Path, tmp_path: Path) -> None:
    done, out = run_slurm(as_slurm(plan(host), DCU, 2), tmp_path, nodes=2)
    assert done.returncode == 0, done.stderr
    for node in (0, 1):
        given = words(out, node)
        environment = (out / f"environment.{node}").read_text().splitlines()
        wanted = {
            "PADDLE_MASTER": "192.0.2.11:24711",
            "PADDLE_NNODES": "2",
            "PADDLE_JOB_ID": "4711",
            "PADDLE_RANK": str(node),
        }
        assert {f"{k}={v}" for k, v in wanted.items()} == set(environment)
        found = of_docker_words(given)
        assert wanted.items() <= found.environment.items()
        assert DCU.node_environment.items() <= found.environment.items()
        assert found.network == "host"
        assert given[given.index("--name") + 1] == f"paddle-stacks-pretrain-4711-{node}"


def test_what_a_plan_says_of_the_meeting_gives_way(host: Path, tmp_path: Path) -> None:
    meeting = ["--nnodes", "2", "--master=h:1", "--rank", "0"]
    script = ["--ranks", "2", "run_pretrain.py", "my.json", "--rank", "7"]
    made = plan(host, job="upstream", argv=[*meeting, *script])
    done, out = run_slurm(as_slurm(made, DCU, 2), tmp_path, nodes=2)
    assert done.returncode == 0, done.stderr
    assert of_docker_words(words(out)).argv == ("upstream", *script), "a script's own stay"


def test_a_first_node_that_takes_itself_for_another_is_found_out(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Debian's installer writes it: the host's own name is an address that others do not see.
    answer = "if [[ -n ${SLURM_NODEID:-} ]]; then echo 127.0.1.1; else echo 192.0.2.11; fi"
    monkeypatch.setitem(STAND_INS, "getent", answer)
    done, out = run_slurm(as_slurm(plan(host), DCU, 2), tmp_path, nodes=2)
    assert done.returncode == 3
    assert "resolves its own name to 127.0.1.1" in done.stderr and "/etc/hosts" in done.stderr
    assert not (out / "words.0").exists()


def test_a_failed_job_leaves_no_container_and_keeps_its_status(host: Path, tmp_path: Path) -> None:
    done, out = run_slurm(as_slurm(plan(host), DCU), tmp_path, STATUS="5")
    assert done.returncode == 5
    removed = (out / "removed").read_text().splitlines()
    assert removed == ["rm --force paddle-stacks-pretrain-4711-0"] * 2, "before and after"


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("name", ["dcu", "cpu"])
def test_the_script_is_clean(host: Path, tmp_path: Path, name: str, nodes: int) -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    if not checker.is_file():
        pytest.skip("shellcheck is not installed")
    platform = backend.load(name, ROOT)
    settings = Settings(root=ROOT, workspace=tmp_path / "it's")
    made = make(JOBS["pretrain"], ODD, settings, platform, user="1:2", suffix="x", host=look(host))
    path = tmp_path / "job.sh"
    path.write_text(as_slurm(made, platform, nodes))
    done = subprocess.run([checker, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_job_without_cards(tmp_path: Path) -> None:
    cpu = backend.load("cpu", ROOT)
    settings = Settings(root=ROOT, workspace=tmp_path)
    made = make(JOBS["infer"], ["--model", "m"], settings, cpu, user="1:2", suffix="x")
    script = as_slurm(made, cpu)
    assert "--gres" not in script and "allocated_devices" not in script
    done, out = run_slurm(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert of_docker_words(words(out)) == of_docker_py(container_options(made, {}))
    (job, policy) = yaml.safe_load_all(as_kubernetes(made, cpu))
    assert "resources" not in pod_of(job)["containers"][0] and policy["kind"] == "NetworkPolicy"


# ------------------------------------------------------------------------ Kubernetes


def test_one_node_is_a_job(host: Path) -> None:
    job, policy = kubernetes(plan(host))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    (container,) = pod_of(job)["containers"]
    assert container["resources"] == {"limits": {DCU.kubernetes_resources["hygon"]: 2}}
    assert pod_of(job)["securityContext"]["runAsNonRoot"] is True
    assert not any("/dev" in str(v.get("hostPath", "")) for v in pod_of(job)["volumes"])
    # Nothing is let in or out of the pods that the policy is of.
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert set(policy["spec"]) == {"podSelector", "policyTypes"}
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert wanted == {RUN_LABEL: job["metadata"]["name"]}
    assert wanted.items() <= job["spec"]["template"]["metadata"]["labels"].items()


def test_several_nodes_are_a_paddle_job(host: Path) -> None:
    (job, _) = kubernetes(plan(host), 3)
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PaddleJob")
    assert set(job["spec"]["paddleReplicaSpecs"]) == {"Worker"}
    assert job["spec"]["paddleReplicaSpecs"]["Worker"]["replicas"] == 3
    (container,) = pod_of(job)["containers"]
    assert container["name"] == "paddle"
    assert container["ports"] == [{"name": "master", "containerPort": 36543}]
    found, one = of_kubernetes([job]), of_kubernetes(kubernetes(plan(host)))
    assert found.environment == {**one.environment, **DCU.node_environment}
    changed = {"environment": one.environment, "network": "none"}
    assert dataclasses.replace(found, **changed) == one  # type: ignore[arg-type]
    assert found.network == "pod", "the pods' own, where the operator has them meet"


def test_kubernetes_gets_every_character_as_it_is(host: Path) -> None:
    odd = [*ODD, "a\x7fb\u0085c\u2028d\t", "$$(HOME)", "- x: y", "~", "1e3"]
    found = of_kubernetes(kubernetes(plan(host, job="infer", argv=odd)))
    assert found.argv == ("infer", *odd)
    text = as_kubernetes(plan(host, job="infer", argv=["$(HOME)"]), DCU)
    assert '"$$(HOME)"' in text, "Kubernetes would put in a variable"


def test_an_image_without_a_registry_is_not_asked_of_a_public_one(
    host: Path, tmp_path: Path
) -> None:
    own, other = plan(host), plan(host, image="registry.example:5000/paddle-stacks/train:dcu")
    for made, pull, policy in ((own, "never", "Never"), (other, "missing", "IfNotPresent")):
        assert f"--pull {pull} " in as_slurm(made, DCU)
        (container,) = pod_of(kubernetes(made)[0])["containers"]
        assert container["imagePullPolicy"] == policy


# ------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("job", "changes", "nodes", "said"),
    [
        ("pretrain", {}, 0, "--nodes must be at least 1, got 0"),
        ("infer", {}, 2, "infer cannot run on several nodes"),
        ("export", {}, 2, "export cannot run on several nodes"),
    ],
)
def test_what_no_scheduler_can_run(
    host: Path, job: str, changes: dict[str, Any], nodes: int, said: str
) -> None:
    made = plan(host, job=job, **changes)
    for render in (as_slurm, as_kubernetes):
        with pytest.raises(RequestError) as caught:
            render(made, DCU, nodes)
        assert said in str(caught.value)
        assert all(problem.remedy for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("infer", ["--model", "m", "--chat"]),
        ("infer", ["--model", "m", "--prompt", "-"]),
        ("infer", ["--model", "m", "--input", "-"]),
        ("prepare", ["--model", "m", "--input", "-", "--output", "data/corpus"]),
    ],
)
def test_a_scheduled_job_has_no_standard_input(host: Path, job: str, words: list[str]) -> None:
    request = from_words(job, words, host.parent, "dcu")
    made = plan(host, job=job, argv=words, request=request)
    for render in (as_slurm, as_kubernetes):
        with pytest.raises(RequestError, match="no standard input"):
            render(made, DCU)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": ("video", "44")}, "requires numeric groups, got video"),
        ({"user": "paddle"}, "requires a numeric user, got paddle"),
        ({"environment": {"https_proxy": "http://me:hidden@proxy"}}, "document: https_proxy"),
    ],
)
def test_what_kubernetes_cannot_be_told(host: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        as_kubernetes(plan(host, **changes), DCU)
    assert said in str(caught.value) and "hidden" not in str(caught.value)


def test_every_fault_is_told_at_once(host: Path) -> None:
    words = ["--model", "m", "--chat"]
    request = from_words("infer", words, host.parent, "dcu")
    made = plan(host, job="infer", argv=words, request=request, groups=("video",))
    with pytest.raises(RequestError) as caught:
        as_kubernetes(made, DCU, 2, hours=0, placement=Placement(claim="My Claim"))
    assert len(caught.value.problems) == 5


def test_a_log_that_sbatch_cannot_name(host: Path) -> None:
    with pytest.raises(RequestError, match="no backslash"):
        as_slurm(plan(host, workspace=Path("/a\\b")), DCU)


# ------------------------------------------------------------------------ the command


def render(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: v for name, v in os.environ.items() if not name.startswith("PADDLE_STACKS_")}
    where = Path(environment["PADDLE_STACKS_HOST_ROOT"]).parent / "workspace"
    if not where.exists():
        make_workspace(where)
    environment.setdefault("PADDLE_STACKS_WORKSPACE", str(where))
    return subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", "cluster.render", *arguments],
        cwd=ROOT,
        env={**clean, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


INFER = ("infer", "--model", "m", "--prompt", "x", "--backend", "dcu", "--devices", "0-3")


def test_render_writes_a_script(host: Path) -> None:
    done = render(*INFER, "--engine", "slurm", "--hours", "2", PADDLE_STACKS_HOST_ROOT=str(host))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n") and done.stderr == ""
    assert "#SBATCH --gres=dcu:4\n#SBATCH --time=2:00:00\n" in done.stdout


def test_the_engine_of_a_job_is_not_that_of_a_cluster(host: Path) -> None:
    where = {"PADDLE_STACKS_HOST_ROOT": str(host)}
    done = render(*INFER, "--engine", "slurm", "--infer-engine", "dynamic", **where)
    assert done.returncode == 0, done.stderr
    done = render(*INFER, "--engine", "slurm", "--infer-engine", "kubernetes", **where)
    assert done.returncode == 2
    assert "argument --engine: invalid choice: 'kubernetes'" in done.stderr
    done = render(
        "fetch", "--model", "m", "--engine", "slurm", "--infer-engine", "dynamic", **where
    )
    assert done.returncode == 2
    assert "fetch has no --infer-engine" in done.stderr


def test_render_writes_documents(host: Path) -> None:
    given = ("--engine", "kubernetes", "--groups", "39,998", "--claim", "llm")
    registry = {"PADDLE_STACKS_REGISTRY": "registry.example"}
    done = render(*INFER, *given, PADDLE_STACKS_HOST_ROOT=str(host), **registry)
    assert done.returncode == 0, done.stderr
    job, _ = yaml.safe_load_all(done.stdout)
    assert of_kubernetes([job]).groups == {39, 998}
    assert of_kubernetes([job]).image == "registry.example/paddle-stacks/infer:dcu"
    claim = {"name": "workspace", "persistentVolumeClaim": {"claimName": "llm"}}
    assert claim in pod_of(job)["volumes"]


RECIPE = ("pretrain", "--recipe", "pretrain-pp8-nodes", "--backend", "dcu")


@pytest.mark.parametrize(("given", "nodes"), [((), 2), (("--nodes", "3"), 3)])
def test_a_recipe_for_several_nodes(host: Path, given: tuple[str, ...], nodes: int) -> None:
    done = render(*RECIPE, "--engine", "slurm", *given, PADDLE_STACKS_HOST_ROOT=str(host))
    assert done.returncode == 0, done.stderr
    assert f"#SBATCH --nodes={nodes}\n" in done.stdout
    assert "#SBATCH --gres=dcu:8\n" in done.stdout
    assert "--master" not in done.stdout and "0.0.0.0" not in done.stdout
    assert "needed first: models/llama-2-13b" in done.stderr


def test_render_checks_what_the_job_reads(host: Path, tmp_path: Path) -> None:
    where = {"PADDLE_STACKS_HOST_ROOT": str(host), "PADDLE_STACKS_WORKSPACE": str(tmp_path)}
    done = render(*INFER, "--engine", "slurm", **where)
    assert done.returncode == 2 and done.stdout.startswith("#!/bin/bash\n")
    assert 'no model "m"' in done.stderr
    done = render(*INFER, "--engine", "kubernetes", "--groups", "39", **where)
    assert done.returncode == 0, done.stderr
    assert "note: model and data are in the claim, and are not checked" in done.stderr


def test_a_job_of_1024_cards(host: Path) -> None:
    given = ("--engine", "slurm", "--nodes", "128")
    done = render(*RECIPE, *given, PADDLE_STACKS_HOST_ROOT=str(host))
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --nodes=128\n" in done.stdout and "#SBATCH --gres=dcu:8\n" in done.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("tensor_parallel_degree=3", "1024 devices cannot be divided into groups of 1008"),
        ("pipeline_parallel_degree=7", "1024 devices cannot be divided into groups of 1022"),
    ],
)
def test_a_layout_that_1024_cards_cannot_have(host: Path, change: str, said: str) -> None:
    given = ("--engine", "slurm", "--nodes", "128", "--set", change)
    done = render(*RECIPE, *given, PADDLE_STACKS_HOST_ROOT=str(host))
    assert done.returncode == 2 and done.stdout == "" and said in done.stderr


def test_where_nodes_meet_is_not_the_callers_to_say(host: Path) -> None:
    given = ("--engine", "slurm", "--master", "h:1")
    done = render(*RECIPE, *given, PADDLE_STACKS_HOST_ROOT=str(host))
    assert done.returncode == 2 and "the scheduler sets --master" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "--engine is required"),
        (("--engine", "slrum"), 'did you mean "slurm"?'),
        (("--engine", "slurm", "--nodes", "two"), '--nodes must be an integer, got "two"'),
        (("--engine", "slurm", "--nodes", "2"), "infer cannot run on several nodes"),
        (("--engine", "kubernetes"), "requires numeric groups, got video"),
    ],
)
def test_a_wrong_request(tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    done = render(*INFER, *given, PADDLE_STACKS_HOST_ROOT=str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and said in done.stderr and "Traceback" not in done.stderr

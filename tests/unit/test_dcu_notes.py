"""A plan warns about what makes a job slow or fail on a host, without refusing it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from paddle_stacks import launch
from paddle_stacks import plan as plans
from paddle_stacks.dcu.notes import notes
from paddle_stacks.errors import RequestError
from paddle_stacks.plan import Plan, backend
from paddle_stacks.settings import Settings
from paddle_stacks.simulated import hosts

ROOT = Path(__file__).parents[2]
DCU = backend.load("dcu", ROOT)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="creating device nodes requires root")


def planned(
    tmp_path: Path,
    name: str,
    *line: str,
    job: str = "infer",
    profile: str = "",
    platform: str = "dcu",
) -> Plan:
    root = hosts.make(name, tmp_path / name)
    settings = Settings(root=ROOT, workspace=tmp_path, backend=platform, host_root=root)
    words = list(line) or ["--model", "m", "--prompt", "x"]
    return launch.make_plan(job, words, settings, launch.Choices(profile))


def of_ranks(tmp_path: Path, name: str, ranks: int, **changes: object) -> tuple[str, ...]:
    plan = dataclasses.replace(planned(tmp_path, name), ranks=ranks, **changes)  # type: ignore[arg-type]
    return notes(plan, DCU, tmp_path / name)


@pytest.mark.parametrize("name", ["ok", "k500sm-ai", "rdma", "no-iommu-pt", "small-shm", "shca"])
def test_one_process_on_a_supported_card_has_no_warning(tmp_path: Path, name: str) -> None:
    assert planned(tmp_path, name).notes == ()


def test_a_card_without_code_is_named_in_the_plan(tmp_path: Path) -> None:
    (note,) = planned(tmp_path, "bw1000").notes
    assert note.startswith("BW1000 is gfx936, and Paddle 3.0.0b2 has code for gfx906")


def test_a_simulated_dcu_computes_on_the_cpu(tmp_path: Path) -> None:
    assert planned(tmp_path, "bw1000", platform="dcu-sim").notes == ()


@pytest.mark.parametrize(("ranks", "warned"), [(4, False), (5, True), (8, True)])
def test_more_than_four_cards_need_iommu_pt(tmp_path: Path, ranks: int, warned: bool) -> None:
    assert any("iommu=pt" in n for n in of_ranks(tmp_path, "no-iommu-pt", ranks)) is warned
    assert of_ranks(tmp_path, "ok", ranks) == ()


def test_more_than_four_cards_need_shared_memory(tmp_path: Path) -> None:
    (note,) = of_ranks(tmp_path, "ok", 8, shm_mib=64)
    assert "8 processes with 64 MiB of /dev/shm" in note and "raise shm_mib" in note
    (note,) = of_ranks(tmp_path, "small-shm", 8, ipc="host")
    assert "with 64 MiB" in note and "mount -o remount,size=16G /dev/shm" in note
    assert of_ranks(tmp_path, "shca", 8, ipc="host") == (), "its own /dev/shm is large"


NODES = ("--nnodes", "2", "--master", "192.0.2.10:9000", "--rank", "0", "run_pretrain.py")


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("ok", False, ""),
        ("rdma", True, ""),
        ("rdma-no-verbs", False, "mlx5_0, but no /dev/infiniband"),
        ("shca", True, "TCP was 8.5 times slower"),
    ],
)
def test_nodes_use_the_adapters(tmp_path: Path, name: str, device: bool, message: str) -> None:
    plan = planned(tmp_path, name, *NODES, job="upstream")
    assert ("/dev/infiniband" in [d.target for d in plan.devices]) is device
    assert [message in note for note in plan.notes] == ([True] if message else [])


def test_one_node_gets_no_adapter(tmp_path: Path) -> None:
    plan = planned(tmp_path, "rdma", "run_pretrain.py", job="upstream")
    assert "/dev/infiniband" not in [device.target for device in plan.devices]


def test_a_disabled_adapter_is_a_warning(tmp_path: Path) -> None:
    plan = planned(tmp_path, "rdma", *NODES, job="upstream")
    plan = dataclasses.replace(plan, environment={"NCCL_IB_DISABLE": "1"})
    (note,) = notes(plan, DCU, tmp_path / "rdma", nodes=2)
    assert note.startswith("NCCL_IB_DISABLE=1")


def test_a_predictor_in_the_hosts_ipc_namespace(tmp_path: Path) -> None:
    line = ("predict/predictor.py", "--dtype", "float16", "--inference_model", "--block_attn")
    (note,) = planned(tmp_path, "ok", *line, job="upstream", profile="doc").notes
    assert "ipcrm -q ID" in note
    other = tmp_path / "other"
    other.mkdir()
    assert planned(other, "ok", *line, job="upstream").notes == ()


@pytest.mark.parametrize("section", ["environment", "node_environment"])
def test_a_backend_cannot_hide_all_devices(tmp_path: Path, section: str) -> None:
    folder = tmp_path / "configs" / "backends"
    folder.mkdir(parents=True)
    text = f'summary = "x"\n[{section}]\nCUDA_VISIBLE_DEVICES = ""\n'
    (folder / "mine.toml").write_text(text)
    with pytest.raises(RequestError, match="CUDA_VISIBLE_DEVICES is empty, which hides all"):
        plans.backend.load("mine", tmp_path)

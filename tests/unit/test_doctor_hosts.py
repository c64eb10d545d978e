"""On every simulated host the doctor finds what it has to find there, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from paddle_stacks.dcu import smi
from paddle_stacks.doctor import Machine, checks_for, preflight, problems
from paddle_stacks.doctor.machine import command
from paddle_stacks.simulated import hosts
from tests.support.doctor_machines import OF_THE_HOST, ROOT, machine, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes are made by root only")


def on(tmp_path: Path, name: str, platform: str = "dcu") -> Machine:
    made = machine(tmp_path, platform, run=command, read_cards=lambda root: smi.read(root, 4))
    root = hosts.make(name, tmp_path / name)
    return replace(made, settings=replace(made.settings, host_root=root))


@pytest.mark.parametrize("variation", hosts.VARIATIONS.values(), ids=lambda v: v.name)
def test_a_host_gives_the_findings_that_it_says(tmp_path: Path, variation: hosts.Variation) -> None:
    looked_at = on(tmp_path, variation.name)
    found = [run(name, looked_at) for name in OF_THE_HOST]
    wrong = [finding.check for finding in found if finding.wrong]
    assert Counter(wrong) == Counter(variation.expects), found
    assert all(finding.remedy for finding in found if finding.wrong)


@pytest.mark.parametrize("variation", hosts.VARIATIONS.values(), ids=lambda v: v.name)
def test_what_ends_a_job_is_said_before_it(tmp_path: Path, variation: hosts.Variation) -> None:
    looked_at = on(tmp_path, variation.name)
    said = problems(looked_at, preflight("dcu", "finetune"))
    fatal = {"device-nodes", "device-access", "hyhal", "driver-dtk", "card-type"}
    assert {problem.where.split()[-1] for problem in said} == fatal & set(variation.expects)
    assert all(problem.remedy for problem in said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("format-a", "DTK 23"),
        ("format-b", "ROCm 4.0"),
        ("format-c", "DTK 24.04"),
        ("format-d", "DTK 25.04 "),
        ("format-e", "DTK 25.04.2"),
        ("hy-smi-invalid-json", "its JSON is not JSON"),
    ],
)
def test_the_form_of_hy_smi_is_named(tmp_path: Path, name: str, said: str) -> None:
    found = run("hy-smi", on(tmp_path, name))
    assert found.severity == "ok" and said in found.saw


def test_a_link_to_hyhal_is_followed(tmp_path: Path) -> None:
    found = run("hyhal", on(tmp_path, "symlinked-hyhal"))
    assert found.severity == "ok" and "/usr/local/hyhal" in found.saw


def test_a_file_in_a_nodes_place_is_told(tmp_path: Path) -> None:
    looked_at = on(tmp_path, "ok")
    (looked_at.root / "dev/kfd").unlink()
    (looked_at.root / "dev/kfd").touch()
    found = run("device-nodes", looked_at)
    assert found.severity == "error" and "not a device node" in found.saw


def test_a_simulated_card_need_not_have_code(tmp_path: Path) -> None:
    assert run("card-type", on(tmp_path, "bw1000", "dcu-sim")).severity == "ok"


@pytest.mark.parametrize(("name", "fit"), [("ok", True), ("wrong-mode", False)])
def test_the_command_on_a_host(tmp_path: Path, name: str, fit: bool) -> None:
    root = hosts.make(name, tmp_path / name)
    clean = {key: v for key, v in os.environ.items() if not key.startswith("PADDLE_STACKS_")}
    done = subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", "doctor", "--backend", "dcu", "--json"],
        cwd=ROOT,
        # No engine, so that it is the same everywhere.
        env={
            **clean,
            "PADDLE_STACKS_HOST_ROOT": str(root),
            "DOCKER_HOST": f"unix://{tmp_path}/none",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    assert list(document) == ["backend", "status", "findings"]
    assert (document["backend"], document["status"]) == ("dcu", 3)
    assert [f["check"] for f in document["findings"]] == [c.name for c in checks_for("dcu")]
    for finding in document["findings"]:
        assert list(finding) == ["check", "severity", "saw", "remedy", "fixed"]
    severities = {finding["check"]: finding["severity"] for finding in document["findings"]}
    assert severities["engine"] == "error"
    assert severities["disk"] == severities["images"] == "skipped"
    assert (severities["device-access"] == "ok") is fit

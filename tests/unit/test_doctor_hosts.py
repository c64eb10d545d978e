"""On every simulated host the doctor reports exactly the expected findings."""

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

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="creating device nodes requires root")


@pytest.fixture(autouse=True)
def _server_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # A simulated host does not have a memory of its own.
    monkeypatch.setattr("paddle_stacks.doctor.system.memory_mib", lambda: 512 * 1024)


def on(tmp_path: Path, name: str, platform: str = "dcu") -> Machine:
    bare = machine(tmp_path, platform, run=command, read_cards=lambda root: smi.read(root, 4))
    root = hosts.make(name, tmp_path / name)
    return replace(bare, settings=replace(bare.settings, host_root=root))


@pytest.mark.parametrize("variation", hosts.VARIATIONS.values(), ids=lambda v: v.name)
def test_a_host_gives_the_expected_findings(tmp_path: Path, variation: hosts.Variation) -> None:
    target = on(tmp_path, variation.name)
    findings = [run(name, target) for name in OF_THE_HOST]
    wrong = [finding.check for finding in findings if finding.wrong]
    assert Counter(wrong) == Counter(variation.expects), findings
    assert all(finding.remedy for finding in findings if finding.wrong)


@pytest.mark.parametrize("variation", hosts.VARIATIONS.values(), ids=lambda v: v.name)
def test_fatal_findings_are_reported_before_a_job(
    tmp_path: Path, variation: hosts.Variation
) -> None:
    target = on(tmp_path, variation.name)
    errors = problems(target, preflight("dcu", "finetune"))
    fatal = {"device-nodes", "device-access", "hyhal", "driver-dtk", "card-type"}
    assert {problem.where.split()[-1] for problem in errors} == fatal & set(variation.expects)
    assert all(problem.remedy for problem in errors)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("format-a", "DTK 23"),
        ("format-b", "ROCm 4.0"),
        ("format-c", "DTK 24.04"),
        ("format-d", "DTK 25.04"),
        ("format-e", "DTK 25.04.2 and newer"),
        (
            "hy-smi-invalid-json",
            "its JSON is invalid: paddle-stacks can read it, other programs cannot",
        ),
    ],
)
def test_the_output_format_of_hy_smi_is_identified(tmp_path: Path, name: str, message: str) -> None:
    finding = run("hy-smi", on(tmp_path, name))
    assert finding.severity == "ok" and finding.saw.endswith(message)


def test_a_link_to_hyhal_is_followed(tmp_path: Path) -> None:
    finding = run("hyhal", on(tmp_path, "symlinked-hyhal"))
    assert finding.severity == "ok" and "/usr/local/hyhal" in finding.saw


def test_a_file_instead_of_a_node_is_an_error(tmp_path: Path) -> None:
    target = on(tmp_path, "ok")
    (target.root / "dev/kfd").unlink()
    (target.root / "dev/kfd").touch()
    finding = run("device-nodes", target)
    assert finding.severity == "error" and "not a device node" in finding.saw


def test_a_simulated_card_needs_no_compiled_operators(tmp_path: Path) -> None:
    assert run("card-type", on(tmp_path, "bw1000", "dcu-sim")).severity == "ok"


@pytest.mark.parametrize(("name", "fit"), [("ok", True), ("wrong-mode", False)])
def test_the_command_on_a_host(tmp_path: Path, name: str, fit: bool) -> None:
    root = hosts.make(name, tmp_path / name)
    clean = {key: v for key, v in os.environ.items() if not key.startswith("PADDLE_STACKS_")}
    done = subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", "doctor", "--backend", "dcu", "--json"],
        cwd=ROOT,
        # Without an engine, so that the result is the same everywhere.
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

"""The simulated hosts, inspected with the code for real ones."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from paddle_stacks.dcu import driver, host, smi
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.simulated import hosts
from paddle_stacks.simulated.hosts import VARIATIONS, Variation
from tests.support.doctor_machines import OF_THE_HOST

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="creating device nodes requires root")


@pytest.fixture(params=list(VARIATIONS))
def variation(request: pytest.FixtureRequest) -> Variation:
    return VARIATIONS[request.param]


def test_every_host_has_a_summary_and_names_known_findings(variation: Variation) -> None:
    assert re.fullmatch(r"[^\n]{5,80}", variation.summary)
    assert set(variation.expects) <= set(OF_THE_HOST)


def test_every_finding_has_a_host_that_shows_it() -> None:
    assert {finding for v in VARIATIONS.values() for finding in v.expects} == set(OF_THE_HOST)


@needs_root
def test_the_detected_host_matches_the_variation(variation: Variation, tmp_path: Path) -> None:
    root = hosts.make(variation.name, tmp_path / "host")
    detected = host.look(root)
    expected = host.Driver(variation.module, variation.version) if variation.module else None
    assert detected.driver == expected
    mismatch = (
        expected is not None and driver.compatibility_problem(expected, "24.04.1") is not None
    )
    assert mismatch == ("driver-dtk" in variation.expects)
    for name in ("kfd", "mkfd", "dri"):
        assert (detected.node(f"/dev/{name}") is None) == (name in variation.without)
    if "dri" not in variation.without:
        renderers = [node for node in detected.nodes if "renderD" in node.path]
        assert len(renderers) == variation.cards
        assert {(node.gid, node.mode) for node in renderers} == {(109, 0o660)}
    if kfd := detected.node("/dev/kfd"):
        assert stat.S_ISCHR(Path(kfd.source).stat().st_mode)
        assert ((kfd.gid, kfd.mode) != (109, 0o660)) == ("device-access" in variation.expects)
    assert (detected.hyhal is None) == ("hyhal" in variation.expects)


@needs_root
def test_hy_smi_works_or_fails_as_the_variation_says(variation: Variation, tmp_path: Path) -> None:
    root = hosts.make(variation.name, tmp_path / "host")
    if "hy-smi" in variation.expects:
        with pytest.raises(MachineError):
            smi.read(root, timeout=0.5)
        return
    cards = smi.read(root)
    assert len(cards) == variation.cards
    names = {"bw1000": "BW", "k100-driver-6.3": "K100", "k500sm-ai": "K500SM_AI"}
    assert {card.name for card in cards} == {names.get(variation.name, "K100_AI")}
    assert all(card.vram_total_mib for card in cards)
    busy = [card.index for card in cards if card.busy]
    assert busy == {"busy-card": [3], "memory-full": [2, 3]}.get(variation.name, [])
    assert sorted({c for p in smi.processes(root) for c in p.cards}) == busy
    program = root / "opt" / "hyhal" / "bin" / "hy-smi"
    if not (root / "opt" / "hyhal").is_symlink():
        run = subprocess.run([program, "--showdriverversion"], capture_output=True, text=True)
        assert f"Driver Version: {variation.version}" in run.stdout


@needs_root
def test_hyhal_may_be_an_absolute_link(tmp_path: Path) -> None:
    root = hosts.make("symlinked-hyhal", tmp_path / "host")
    assert host.look(root).hyhal == str(root / "usr" / "local" / "hyhal")
    assert str((root / "opt" / "hyhal").readlink()) == "/usr/local/hyhal"


@needs_root
def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        root = hosts.make("ok", tmp_path / "host")
    finally:
        os.umask(before)
    node = host.look(root).node("/dev/kfd")
    assert node is not None and (node.gid, node.mode) == (109, 0o660)


@needs_root
def test_an_unknown_option_is_an_error(tmp_path: Path) -> None:
    program = hosts.make("ok", tmp_path / "host") / "opt" / "hyhal" / "bin" / "hy-smi"
    run = subprocess.run([program, "--nonsense"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert "unrecognized arguments: --nonsense" in run.stderr


def test_the_output_does_not_reveal_the_simulation() -> None:
    for path in (Path(hosts.__file__).parent / "recorded").iterdir():
        code = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert "simulated" not in "\n".join(code).lower()


def test_an_unknown_name_and_a_folder_in_use(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as raised:
        hosts.make("no-kdf", tmp_path / "host")
    assert 'did you mean "no-kfd"?' in raised.value.problems[0].remedy
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(RequestError, match="already exists"):
            hosts.make("ok", folder)


def test_without_the_privilege_to_create_nodes_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "mknod", refuse)
    with pytest.raises(MachineError) as raised:
        hosts.make("ok", tmp_path / "host")
    assert "root" in raised.value.problems[0].remedy
    assert list(tmp_path.iterdir()) == []

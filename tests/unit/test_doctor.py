"""The doctor's checks, its fixes and its output."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from paddle_stacks import doctor
from paddle_stacks.build.variables import lock_hash
from paddle_stacks.dcu.host import Driver, Host, Node
from paddle_stacks.dcu.smi import Card
from paddle_stacks.doctor import (
    CHECKS,
    SEVERITIES,
    Check,
    Finding,
    Fix,
    Machine,
    checks_for,
    devices,
    examine,
    network,
    preflight,
    problems,
    show,
    software,
    system,
)
from paddle_stacks.errors import MachineError
from paddle_stacks.plan import backend
from tests.support.doctor_machines import ROOT, Engine, Image, cards, commands, machine, run, write

IMAGES = ("train", "infer")


def built(platform: str = "cpu", revision: str = "", lock: str = "") -> dict[str, Image]:
    labels = {
        "org.opencontainers.image.revision": revision or head(),
        "paddle-stacks.lock": lock or lock_hash(ROOT, backend.load(platform, ROOT)),
    }
    return {f"paddle-stacks/{image}:{platform}": Image(labels) for image in IMAGES}


def head() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


# --- engine, plugins, disk


@pytest.mark.parametrize(
    ("version", "severity"), [("26.1.5", "ok"), ("24.0.7", "ok"), ("20.10.24+dfsg1", "warning")]
)
def test_engine(tmp_path: Path, version: str, severity: str) -> None:
    finding = run("engine", machine(tmp_path, engine=Engine(version)))
    assert (finding.severity, version in finding.saw) == (severity, True)


def test_no_engine(tmp_path: Path) -> None:
    finding = run("engine", machine(tmp_path))
    assert (
        finding.severity == "error" and "the Docker Engine does not respond" in finding.saw
    )  # message of NO_ENGINE


@pytest.mark.parametrize("name", ["disk", "images", "image-libraries"])
def test_checks_that_need_an_engine_are_skipped_without_one(tmp_path: Path, name: str) -> None:
    assert run(name, machine(tmp_path)).severity == "skipped"


@pytest.mark.parametrize(
    ("name", "text", "severity"),
    [
        ("buildx", "github.com/docker/buildx 0.13.1+ds1 0.13.1+ds1-3", "ok"),
        ("buildx", "github.com/docker/buildx v0.8.2 6224def", "warning"),
        ("compose", "Docker Compose version 2.26.1-4", "ok"),
        ("compose", "Docker Compose version v2.5.0", "warning"),
        ("compose", "no version here", "warning"),
    ],
)
def test_plugins(tmp_path: Path, name: str, text: str, severity: str) -> None:
    finding = run(name, machine(tmp_path, run=commands(**{name: text})))
    assert finding.severity == severity, finding


@pytest.mark.parametrize("name", ["buildx", "compose"])
def test_no_plugin(tmp_path: Path, name: str) -> None:
    finding = run(name, machine(tmp_path))
    assert finding.severity == "error" and f"docker-{name}" in finding.remedy


@pytest.mark.parametrize(
    ("free_gib", "images", "severity"),
    [(100, {}, "ok"), (5, {}, "error"), (5, built(), "ok"), (1, built(), "warning")],
)
def test_disk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free_gib: int,
    images: dict[str, Image],
    severity: str,
) -> None:
    monkeypatch.setattr(
        software.shutil, "disk_usage", lambda path: SimpleNamespace(free=free_gib * 2**30)
    )
    finding = run("disk", machine(tmp_path, "cpu", engine=Engine(store=tmp_path, images=images)))
    assert finding.severity == severity and str(tmp_path) in finding.saw


def test_the_disk_of_a_remote_engine_is_skipped(tmp_path: Path) -> None:
    finding = run("disk", machine(tmp_path, engine=Engine(store=tmp_path / "elsewhere")))
    assert finding.severity == "skipped"


def test_the_folder_of_containerds_image_store() -> None:
    status = [["driver-type", "io.containerd.snapshotter.v1"]]
    info = {"DriverStatus": status, "DockerRootDir": "/var/lib/docker"}
    assert software._store(info) == Path("/var/lib/containerd")


# --- images


def test_images_of_this_checkout(tmp_path: Path) -> None:
    finding = run("images", machine(tmp_path, "cpu", engine=Engine(images=built())))
    assert finding.severity == "ok" and "train" in finding.saw


@pytest.mark.parametrize(
    ("images", "severity", "message"),
    [
        ({}, "warning", "not built: paddle-stacks/train:cpu, paddle-stacks/infer:cpu"),
        (built(lock="sha256:0"), "warning", "differ from this checkout's locks"),
        (built(revision="0" * 40), "hint", "this checkout is"),
    ],
)
def test_other_images(
    tmp_path: Path, images: dict[str, Image], severity: str, message: str
) -> None:
    finding = run("images", machine(tmp_path, "cpu", engine=Engine(images=images)))
    assert (
        finding.severity == severity and message in finding.saw and "./inv build" in finding.remedy
    )


def libraries(tmp_path: Path, output: bytes | Exception) -> tuple[Finding, dict[str, Any]]:
    images = {"paddle-stacks/infer:dcu-sim": Image()}
    engine = Engine(images=images, output=output)
    target = machine(tmp_path, "dcu-sim", engine=engine)
    (target.root / "opt/hyhal").mkdir(parents=True)
    return run("image-libraries", target), engine.containers.options


def test_the_libraries_of_an_image(tmp_path: Path) -> None:
    finding, options = libraries(tmp_path, b"\tlibm.so.6 => /lib/libm.so.6 (0x1)\n")
    assert finding.severity == "ok"
    # A non-login shell, hence no .bashrc; no network; the host's own hyhal, read only.
    assert options["entrypoint"] == ["/bin/sh", "-c"] and options["network_mode"] == "none"
    mounted = {str(tmp_path / "host/opt/hyhal"): {"bind": "/opt/hyhal", "mode": "ro"}}
    assert options["volumes"] == mounted


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (b"\tlibgalaxyhip.so.5 => not found\n\tlibm.so.6 => /lib/libm.so.6\n", "libgalaxyhip"),
        (docker.errors.ContainerError(None, 3, "", "", b""), "does not contain"),
        (docker.errors.ContainerError(None, 1, "", "", b"not a dynamic executable\n"), "dynamic"),
        (docker.errors.APIError("no space"), "cannot be started"),
    ],
)
def test_the_libraries_of_a_broken_image(
    tmp_path: Path, output: bytes | Exception, message: str
) -> None:
    finding, _ = libraries(tmp_path, output)
    assert finding.severity == "error" and message in finding.saw


# --- the host of a DCU; see also the tests with simulated hosts


def with_host(tmp_path: Path, *nodes: Node, driver: Driver | None = None, **others: Any) -> Machine:
    target = machine(tmp_path, **others)
    vars(target)["host"] = Host(target.root, nodes, None, driver)
    return target


@pytest.mark.parametrize(
    ("gid", "mode", "severity"),
    [
        (109, 0o660, "ok"),
        (0, 0o666, "ok"),
        (0, 0o660, "error"),
        (109, 0o640, "error"),
        (109, 0o600, "error"),
    ],
)
def test_device_access(tmp_path: Path, gid: int, mode: int, severity: str) -> None:
    finding = run("device-access", with_host(tmp_path, Node("/dev/kfd", "/x", gid, mode)))
    assert finding.severity == severity and (severity == "ok" or f"{mode:04o}" in finding.saw)


def test_a_host_without_a_dcu(tmp_path: Path) -> None:
    target = machine(tmp_path)
    severities = {name: run(name, target).severity for name in ("device-nodes", "hyhal")}
    assert set(severities.values()) == {"error"}
    assert run("driver", target).severity == "error"
    assert run("hy-smi", target).severity == "warning"
    for name in ("device-access", "driver-dtk", "cards-busy", "card-memory", "card-type"):
        assert run(name, target).severity == "skipped"


def test_hyhal_that_is_a_broken_link_or_empty(tmp_path: Path) -> None:
    target = machine(tmp_path)
    link = target.root / "opt/hyhal"
    link.parent.mkdir()
    link.symlink_to("/usr/local/hyhal")
    assert "broken link to /usr/local/hyhal" in run("hyhal", target).saw
    (target.root / "usr/local/hyhal").mkdir(parents=True)
    assert "no libraries" in run("hyhal", replace(target)).saw


@pytest.mark.parametrize(
    ("module", "version", "severity"),
    [
        ("hydcu", "6.2.17a", "ok"),
        ("hycu", "6.3.16-V1.1.0a", "error"),
        ("hydcu", "5.16.29", "error"),
        ("hycu", "9.9.9", "warning"),
        ("hydcu", "nonsense", "error"),
    ],
)
def test_driver_and_dtk(tmp_path: Path, module: str, version: str, severity: str) -> None:
    finding = run("driver-dtk", with_host(tmp_path, driver=Driver(module, version)))
    assert finding.severity == severity, finding


def test_the_wheel_must_match_the_images_dtk(tmp_path: Path) -> None:
    settings = {"dtk_image": "registry.example/paddle-dcu:dtk25.04.1-x"}
    finding = run("driver-dtk", machine(tmp_path, settings=settings))
    assert (
        finding.severity == "error" and "paddlepaddle-dcu 3.0.0b2 requires DTK 24.04" in finding.saw
    )


def test_the_dtk_is_that_of_the_dockerfile() -> None:
    default = re.search(r"^ARG DTK_IMAGE=\S*dtk([\d.]+)-", (ROOT / "Dockerfile").read_text(), re.M)
    assert default and default[1] == devices._DTK


def test_an_amd_driver(tmp_path: Path) -> None:
    finding = run("driver", with_host(tmp_path, driver=Driver("amdgpu", "5.11.32")))
    assert finding.severity == "warning"


K100 = Card(0, "K100_AI", vram_total_mib=65520, vram_used_mib=2, use_percent=0)


@pytest.mark.parametrize(
    ("name", "card", "severity"),
    [
        ("cards-busy", K100, "ok"),
        ("cards-busy", replace(K100, use_percent=34.2), "warning"),
        ("card-memory", K100, "ok"),
        ("card-memory", replace(K100, vram_used_mib=60000), "warning"),
        ("card-memory", replace(K100, vram_total_mib=16384), "warning"),
        ("card-memory", replace(K100, vram_total_mib=None, vram_used_mib=None), "ok"),
        ("card-type", K100, "ok"),
        ("card-type", replace(K100, name="BW1000"), "error"),
        ("card-type", replace(K100, name="Z9000"), "warning"),
        ("card-type", replace(K100, name=""), "skipped"),
    ],
)
def test_cards(tmp_path: Path, name: str, card: Card, severity: str) -> None:
    finding = run(name, machine(tmp_path, read_cards=cards(card)))
    assert finding.severity == severity, finding


def test_cards_of_different_types(tmp_path: Path) -> None:
    mixed = cards(K100, replace(K100, index=1, name="Z100"))
    assert run("card-type", machine(tmp_path, read_cards=mixed)).severity == "warning"


def test_hy_smi_is_run_once(tmp_path: Path) -> None:
    calls = []

    def read(root: Path) -> tuple[Card, ...]:
        calls.append(root)
        raise MachineError("hy-smi timed out", remedy="fix it")

    target = machine(tmp_path, read_cards=read)
    for name in ("hy-smi", "cards-busy", "card-memory", "card-type"):
        run(name, target)
    assert len(calls) == 1


# --- the machine


@pytest.mark.parametrize(("processor", "severity"), [("x86_64", "ok"), ("aarch64", "error")])
def test_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str, severity: str
) -> None:
    monkeypatch.setattr(system.platform, "machine", lambda: processor)
    assert run("architecture", machine(tmp_path)).severity == severity


@pytest.mark.parametrize(
    ("memory_gib", "own_gib", "severity"),
    [(512, 256, "ok"), (8, 256, "hint"), (512, 1, "hint")],
)
def test_shm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_gib: int, own_gib: int, severity: str
) -> None:
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": memory_gib * 2**18}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(system.host, "shm_mib", lambda root: own_gib * 1024)
    assert run("shm", machine(tmp_path)).severity == severity


@pytest.mark.parametrize(
    ("platform", "limit", "severity"),
    [("dcu", -1, "ok"), ("dcu", 8 * 2**20, "hint"), ("cpu", 8 * 2**20, "ok")],
)
def test_memlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, limit: int, severity: str
) -> None:
    monkeypatch.setattr(system.resource, "getrlimit", lambda kind: (limit, limit))
    assert run("memlock", machine(tmp_path, platform)).severity == severity


@pytest.mark.parametrize(
    ("name", "path", "text", "severity"),
    [
        ("iommu", "/proc/cmdline", "root=/dev/sda iommu=pt\n", "ok"),
        ("iommu", "/proc/cmdline", "amd_iommu=on xiommu=pt\n", "hint"),
        ("iommu", "/none", "", "skipped"),
        ("numa-balancing", "/proc/sys/kernel/numa_balancing", "0\n", "ok"),
        ("numa-balancing", "/proc/sys/kernel/numa_balancing", "1\n", "hint"),
        ("numa-balancing", "/none", "", "ok"),
    ],
)
def test_the_kernel(tmp_path: Path, name: str, path: str, text: str, severity: str) -> None:
    target = machine(tmp_path)
    write(target.root, path, text)
    assert run(name, target).severity == severity


def test_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = machine(tmp_path)
    room = SimpleNamespace(free=2**40, total=2**40)
    monkeypatch.setattr(system.shutil, "disk_usage", lambda path: room)
    here = target.settings.workspace
    for name in ("models", "runs"):
        (here / name).mkdir()
    assert run("workspace", target).severity == "ok"
    (here / "runs").chmod(0o500)
    finding = run("workspace", target)
    assert finding.severity == "error" and f"sudo chown -R {os.getuid()}" in finding.remedy
    (here / "runs").chmod(0o700)
    monkeypatch.setattr(
        system.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30, total=2**40)
    )
    assert run("workspace", target).severity == "warning"


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    target = machine(tmp_path)
    (target.settings.workspace / "models").touch()
    finding = run("workspace", target)
    assert finding.severity == "error" and "not a folder" in finding.saw


# --- names, proxies, certificates


@pytest.mark.parametrize(
    ("addresses", "nodes", "severity"),
    [
        (("192.0.2.10",), (), "ok"),
        (("127.0.1.1",), (), "warning"),
        (("192.0.2.10",), ("dcu02",), "ok"),
        (("127.0.1.1",), ("dcu02",), "error"),
        ((), (), "warning"),
    ],
)
def test_host_name(
    tmp_path: Path, addresses: tuple[str, ...], nodes: tuple[str, ...], severity: str
) -> None:
    target = machine(tmp_path, nodes=nodes, addresses=lambda name: ("192.0.2.11",))
    write(target.root, "/etc/hostname", "dcu01\n")
    lines = "".join(f"{address} dcu01 # me\n" for address in addresses)
    write(target.root, "/etc/hosts", f"127.0.0.1 localhost\n{lines}")
    assert run("host-name", target).severity == severity


def test_a_node_without_an_address(tmp_path: Path) -> None:
    target = machine(tmp_path, nodes=("dcu02",))
    write(target.root, "/etc/hostname", "dcu01\n")
    write(target.root, "/etc/hosts", "192.0.2.10 dcu01\n")
    finding = run("host-name", target)
    assert finding.severity == "error" and "dcu02 cannot be resolved" in finding.saw


@pytest.mark.parametrize(
    ("proxy", "no_proxy", "severity"),
    [
        ("", "", "ok"),
        ("http://u:secret@proxy:3128", "localhost,x", "ok"),
        ("http://u:secret@proxy:3128", "", "hint"),
        ("proxy:3128", "localhost", "warning"),
        ("http://proxy:many", "localhost", "warning"),
        ("http://gone:3128", "localhost", "warning"),
    ],
)
def test_proxies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, no_proxy: str, severity: str
) -> None:
    def connect(address: tuple[str, int], timeout: float) -> io.BytesIO:
        if address[0] == "gone":
            raise OSError(111, "Connection refused")
        return io.BytesIO()

    monkeypatch.setattr(network.socket, "create_connection", connect)
    target = machine(tmp_path, settings={"https_proxy": proxy, "no_proxy": no_proxy})
    finding = run("proxies", target)
    assert finding.severity == severity and "secret" not in finding.saw + finding.remedy


class Certificates:
    """An SSL context whose certificates expire at these times."""

    def __init__(self, *ends: str) -> None:
        self.ends = ends

    def __call__(self, protocol: object) -> Certificates:
        return self

    def load_verify_locations(self, cafile: str) -> None:
        Path(cafile).read_bytes()

    def get_ca_certs(self) -> list[dict[str, Any]]:
        subject = ((("organizationName", "Site"),), (("commonName", "Site root"),))
        return [{"notAfter": end, "subject": subject} for end in self.ends]


_PAST, _FUTURE = "Jan  1 00:00:00 2020 GMT", "Jan  1 00:00:00 2099 GMT"


@pytest.mark.parametrize(
    ("ends", "severity"),
    [
        ((_FUTURE,), "ok"),
        ((_FUTURE, _PAST), "hint"),
        ((_PAST, _PAST), "error"),
        ((), "warning"),
    ],
)
def test_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: tuple[str, ...], severity: str
) -> None:
    for name in network._BUNDLES:
        monkeypatch.delenv(name, raising=False)
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    monkeypatch.setattr(network.ssl, "SSLContext", Certificates(*ends))
    finding = run("ca-bundle", machine(tmp_path, settings={"ca_bundle": bundle}))
    assert finding.severity == severity and (
        severity == "ok" or "Site root" in finding.saw or not ends
    )


def test_an_invalid_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in network._BUNDLES:
        monkeypatch.delenv(name, raising=False)
    assert run("ca-bundle", machine(tmp_path)).severity == "ok"
    monkeypatch.setenv("PIP_CERT", "/nowhere/ca.pem")
    assert "/nowhere/ca.pem" in run("ca-bundle", machine(tmp_path)).saw
    bundle = tmp_path / "ca.pem"
    bundle.write_text("not a certificate")
    finding = run("ca-bundle", machine(tmp_path, settings={"ca_bundle": bundle}))
    assert finding.severity == "error" and "PEM" in finding.saw
    bundle.unlink()
    finding = run("ca-bundle", machine(tmp_path, settings={"ca_bundle": bundle}))
    assert finding.severity == "error" and "cannot be read" in finding.saw


# --- the registry


def test_names_are_unique_and_every_check_has_a_title_and_docstring() -> None:
    names = [check.name for check in CHECKS]
    assert len(names) == len(set(names))
    assert all(check.title and check.look.__doc__ for check in CHECKS)
    assert {platform for check in CHECKS for platform in check.backends} == {
        "cpu",
        "dcu",
        "dcu-sim",
    }


def test_the_checks_before_a_job() -> None:
    names = ["device-nodes", "device-access", "hyhal", "driver-dtk", "card-type"]
    for platform in ("dcu", "dcu-sim"):
        assert [check.name for check in preflight(platform, "finetune")] == names
        assert preflight(platform, "fetch") == ()
    assert preflight("cpu", "finetune") == ()


def test_problems_are_only_the_errors(tmp_path: Path) -> None:
    errors = problems(machine(tmp_path), ["hyhal", "hy-smi", "card-type"])
    assert [(p.where, bool(p.remedy)) for p in errors] == [("./inv doctor: hyhal", True)]


def check(look: Any, name: str = "one") -> Check:
    return Check(name, "a thing", ("cpu",), "error", look)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (MachineError("it is gone", where="/x", remedy="put it back"), "it is gone (/x)"),
        (PermissionError(13, "Permission denied", "/secret"), "Permission denied: /secret"),
    ],
)
def test_a_check_that_fails_is_a_finding(tmp_path: Path, failure: Exception, message: str) -> None:
    def look(machine: Machine) -> Finding:
        raise failure

    finding = check(look).run(machine(tmp_path))
    assert (finding.check, finding.severity) == ("one", "error")
    assert message in finding.saw and finding.remedy


def test_findings_are_not_worse_than_the_worst_of_their_check(tmp_path: Path) -> None:
    for platform in ("cpu", "dcu", "dcu-sim"):
        for each in checks_for(platform):
            finding = each.run(machine(tmp_path, platform))
            assert SEVERITIES.index(finding.severity) <= SEVERITIES.index(each.worst), finding


# --- fixes


def test_fix_creates_the_folders_and_checks_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = machine(tmp_path)
    room = SimpleNamespace(free=2**40, total=2**40)
    monkeypatch.setattr(system.shutil, "disk_usage", lambda path: room)
    checks = [each for each in CHECKS if each.name == "workspace"]
    [before] = examine(target, checks)
    assert (before.severity, before.fixed) == ("hint", "") and before.fix
    assert not (target.settings.workspace / "runs").exists()
    [after] = examine(target, checks, fix=True)
    assert after.severity == "ok" and after.fixed.startswith("create ")
    assert (target.settings.workspace / "runs").is_dir()
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("workspace: create ")
    assert after.to_json()["fixed"] == after.fixed and before.to_json()["fixed"] is None


def test_later_checks_see_the_fix(tmp_path: Path) -> None:
    started: list[Engine] = []

    def connect() -> Engine:
        if not started:
            raise MachineError("no engine", remedy="fix it")
        return started[0]

    target = replace(machine(tmp_path), connect=connect)

    def look(of: Machine) -> Finding:
        fix = Fix("start it", lambda: started.append(Engine()))
        return Finding("ok", "up") if of.client else Finding("error", "down", "start it", fix)

    findings = list(examine(target, [check(look), check(look, "two")], fix=True))
    assert [(f.severity, f.fixed) for f in findings] == [("ok", "start it"), ("ok", "")]


def test_a_fix_that_fails_is_reported(tmp_path: Path) -> None:
    def fail() -> None:
        raise MachineError("dockerd ended", remedy="read its log")

    def look(of: Machine) -> Finding:
        return Finding("error", "down", "start it", Fix("start it", fail))

    [finding] = examine(machine(tmp_path), [check(look)], fix=True)
    assert (finding.severity, finding.fixed, finding.remedy) == ("error", "", "read its log")
    assert "dockerd ended" in finding.saw


@pytest.mark.parametrize(("uid", "offered"), [(0, True), (1000, False)])
def test_only_root_is_offered_the_fix_that_starts_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, offered: bool
) -> None:
    monkeypatch.setattr(software.os, "geteuid", lambda: uid)
    monkeypatch.setattr(software.shutil, "which", lambda name: f"/usr/sbin/{name}")
    finding = run("engine", machine(tmp_path))
    assert (finding.fix is not None) is offered
    assert not offered or (finding.fix and finding.fix.action == "start the Docker Engine")


# --- output


FINDINGS = [
    Finding("ok", "all is well", check="one"),
    Finding("hint", "could be better", "better it", check="two"),
    Finding("warning", "will fail", "mend it", Fix("mend it", list), check="three"),
    Finding("error", "is [broken]", "buy another", check="four"),
    Finding("skipped", "nothing there", check="five"),
]


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show.show(FINDINGS, [finding.check for finding in FINDINGS])
    output = capsys.readouterr().out
    assert "\x1b" not in output and "✗" not in output
    lines = output.splitlines()
    assert lines[0] == "ok       one    all is well"
    assert "error    four   is [broken]" in lines
    assert (
        "                fix: mend it" in lines and "                --fix would mend it" in lines
    )
    assert lines[-1] == (
        "not fit: 5 checks, 1 error (four), 1 warning (three), 1 hint (two), 1 skipped"
    )


def test_a_terminal_gets_signs_and_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show.show(FINDINGS, [finding.check for finding in FINDINGS])
    screen.flush()
    output = screen.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "✓" in output and "✗" in output and "\x1b[" in output


def test_only_an_error_makes_the_machine_unfit() -> None:
    assert show.status_of(FINDINGS) == 3
    assert show.status_of(FINDINGS[:3]) == 0
    assert show.verdict(FINDINGS[:1]) == "fit: 1 check"
    assert show.verdict(FINDINGS[:3]).startswith("fit: 3 checks, 1 warning (three)")


def test_the_page_has_every_check() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.+?) \| (\w+) \|", page, re.M)
    assert rows == [
        (
            each.name,
            each.title,
            "all" if "cpu" in each.backends else ", ".join(each.backends),
            each.worst,
        )
        for each in CHECKS
    ]


def test_every_name_is_public() -> None:
    assert all(hasattr(doctor, name) for name in doctor.__all__)


def test_no_backend_of_that_name() -> None:
    clean = {name: v for name, v in os.environ.items() if not name.startswith("PADDLE_STACKS_")}
    done = subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", "doctor", "--backend", "dcu_sim"],
        cwd=ROOT,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and 'did you mean "dcu-sim"?' in done.stderr

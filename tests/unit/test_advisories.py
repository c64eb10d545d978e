"""Known vulnerabilities of the pins: the repository's own, and how the snapshot is written."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.provenance import advisories, vulnerabilities
from paddle_stacks.provenance.contents import Contents, Package
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
TODAY = datetime.date(2026, 11, 30)
POLICY = ROOT / "configs" / "vulnerabilities.toml"


def checkout(folder: Path, **pins: str) -> Path:
    """A checkout whose locks name these packages."""
    for name in ("base", "framework", "infer", "train"):
        (folder / "images" / name).mkdir(parents=True)
    (folder / "configs").mkdir()
    frame = folder / "images" / "framework"
    (frame / "requirements.in").write_text("paddlepaddle==3.0.0b2\n")
    (frame / "build-constraints.txt").write_text("wheel==0.46.3 \\\n    --hash=sha256:0\n")
    (folder / "requirements.lock").write_text("idna==3.20 ; python_version > '3' \\\n")
    text = "".join(f"{name}=={version} \\\n" for name, version in pins.items())
    (folder / "images" / "train" / "requirements.cpu.lock").write_text(text)
    return folder


def found(root: Path, database: Path = ROOT / advisories.SNAPSHOT) -> dict[str, list[str]]:
    reports = advisories.check(root, database, [], TODAY)
    return {r.image: [f.id for f in r.findings] for r in reports if r.findings}


def test_no_pin_has_a_known_advisory_that_is_not_accepted() -> None:
    policy = vulnerabilities.load_policy(POLICY)
    today = datetime.date.today()
    reports = advisories.check(ROOT, ROOT / advisories.SNAPSHOT, policy, today)
    faults = {line for report in reports for line in report.faults()}
    assert not faults, "./inv lock --package NAME, or an exception in configs/vulnerabilities.toml"


def test_every_exception_has_a_reason_and_ends_within_a_year() -> None:
    for exception in vulnerabilities.load_policy(POLICY):
        assert len(exception.reason) > 20
        assert exception.expires < datetime.date.today() + datetime.timedelta(days=366)


def test_every_file_that_pins_is_checked() -> None:
    checked = advisories.lock_files(ROOT)
    assert all(path.is_file() for path in checked)
    listed = subprocess.run(
        ["git", "ls-files", "*.lock"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {ROOT / name for name in listed.stdout.split()} <= set(checked)


@pytest.mark.parametrize(
    ("pin", "version", "fixed", "ids"),
    [
        (
            "jinja2",
            "3.1.4",
            "3.1.6",
            ["GHSA-cpwx-vrp4-4pq7", "GHSA-gmj6-6f8f-6699", "GHSA-q2x7-8rv6-6q7h"],
        ),
        ("pillow", "11.0.0", "12.3.0", ["GHSA-cfh3-3jmp-rvhc"]),
        ("protobuf", "5.28.3", "5.29.6", ["GHSA-7gcm-g887-7qv7", "GHSA-8qvm-5x2c-j2w7"]),
        ("setuptools", "75.8.0", "79.0.1", ["GHSA-5rjg-fvgr-3xxf"]),
        ("wheel", "0.45.1", "0.46.3", ["CVE-2026-24049"]),
        ("Urllib3", "1.26.16", "2.8.0", ["PYSEC-2023-192", "PYSEC-2023-212"]),
    ],
)
def test_a_vulnerable_pin_is_found(
    tmp_path: Path, pin: str, version: str, fixed: str, ids: list[str]
) -> None:
    lock = "images/train/requirements.cpu.lock"
    assert found(checkout(tmp_path / "old", **{pin: version})) == {lock: ids}
    assert found(checkout(tmp_path / "new", **{pin: fixed})) == {}


def test_what_builds_packages_and_the_tasks_own_packages_are_checked(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    constraints = root / "images" / "framework" / "build-constraints.txt"
    constraints.write_text("wheel==0.45.1 \\\n")
    (root / "requirements.lock").write_text("jinja2==3.1.5 ; python_version < '3.11' \\\n")
    assert found(root) == {
        "images/framework/build-constraints.txt": ["CVE-2026-24049"],
        "requirements.lock": ["GHSA-cpwx-vrp4-4pq7"],
    }


def test_a_dcus_paddle_is_checked_though_no_lock_has_it(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    (root / "images" / "framework" / "requirements.dcu.lock").write_text("six==1.17.0 \\\n")
    assert found(root) == {"images/framework/requirements.dcu.lock": ["PYSEC-2022-43063"]}


def test_what_was_found_is_told_once_with_the_files(tmp_path: Path) -> None:
    root = checkout(tmp_path, jinja2="3.1.5")
    (root / "requirements.lock").write_text("jinja2==3.1.5 \\\n")
    unused = vulnerabilities.Accepted("CVE-1", "numpy", "why", TODAY, "policy.toml:1")
    reports = advisories.check(root, ROOT / advisories.SNAPSHOT, [unused], TODAY)
    first, second, last = advisories.lines(reports)
    assert first.startswith("GHSA-cpwx-vrp4-4pq7: jinja2 3.1.5, fixed in 3.1.6; Sandbox breakout")
    assert first.endswith("(images/train/requirements.cpu.lock, requirements.lock)")
    assert second == "unused exception: CVE-1 in numpy"
    assert last == "3 files: 1 found, 1 to act on"


# --------------------------------------------------------------------------------- the snapshot


def advisory(name: str, *events: dict[str, str], **more: Any) -> dict[str, Any]:
    entry = {
        "package": {"ecosystem": more.pop("ecosystem", "PyPI"), "name": name, "purl": "x"},
        "ranges": [
            {"type": "GIT", "repo": "x", "events": [{"introduced": "0"}]},
            {"type": "ECOSYSTEM", "events": list(events), "database_specific": {"x": 1}},
        ],
        "versions": more.pop("versions", []),
    }
    return {"details": "A line.\nMore.", "modified": "2026-01-02T03:04:05Z", **more} | {
        "affected": [entry]
    }


@pytest.fixture
def osv(tmp_path: Path) -> Path:
    folder = tmp_path / "osv"
    folder.mkdir()
    bounds = ({"introduced": "0"}, {"fixed": "3.1.6"})
    for name, value in {
        "A-1": advisory("Jinja2", *bounds, versions=["3.1.4", "3.1.5", "9.0", "odd-version"]),
        "A-2": advisory("jinja2", *bounds, withdrawn="2026-01-01T00:00:00Z"),
        "A-3": advisory("another", *bounds, modified="2026-02-03T00:00:00Z"),
        "A-4": advisory("jinja2", *bounds, ecosystem="npm"),
    }.items():
        (folder / f"{name}.json").write_text(json.dumps({"id": name, **value}))
    return folder


def test_the_snapshot_has_what_a_check_reads(tmp_path: Path, osv: Path) -> None:
    root = checkout(tmp_path / "checkout", jinja2="3.1.4")
    snapshot = advisories.update(root, Settings(root=root, workspace=root), osv)
    assert snapshot == advisories.read(root / advisories.SNAPSHOT)
    assert snapshot.complete_until == datetime.date(2026, 2, 3), "the newest of the whole database"
    events = [{"introduced": "0"}, {"fixed": "3.1.6"}]
    assert list(snapshot.advisories) == [
        {
            "id": "A-1",
            "modified": "2026-01-02T03:04:05Z",
            "summary": "A line.",
            "affected": [
                {
                    "package": {"ecosystem": "PyPI", "name": "Jinja2"},
                    "ranges": [{"type": "ECOSYSTEM", "events": events}],
                    # Those that the range does not say.
                    "versions": ["9.0", "odd-version"],
                }
            ],
        }
    ]
    lock = "images/train/requirements.cpu.lock"
    assert found(root, root / advisories.SNAPSHOT) == {lock: ["A-1"]} == found(root, osv)
    assert snapshot.packages == ("idna", "jinja2", "wheel")
    assert advisories.uncovered(root, snapshot) == []
    (root / "requirements.lock").write_text("idna==3.20 \\\nNew_One==1 \\\n")
    assert advisories.uncovered(root, snapshot) == ["new-one"]
    (root / "requirements.lock").write_text("idna==3.20 \\\n")
    before = (root / advisories.SNAPSHOT).read_bytes()
    advisories.update(root, Settings(root=root, workspace=root), osv)
    assert (root / advisories.SNAPSHOT).read_bytes() == before


def test_a_database_about_other_packages_leaves_the_snapshot(tmp_path: Path, osv: Path) -> None:
    root = checkout(tmp_path / "checkout", numpy="1.26.4")
    (root / advisories.SNAPSHOT).write_text("as it was")
    with pytest.raises(RequestError, match="no advisory for any package"):
        advisories.update(root, Settings(root=root, workspace=root), osv)
    assert (root / advisories.SNAPSHOT).read_text() == "as it was"


def test_without_a_network_the_update_says_what_to_do(tmp_path: Path) -> None:
    root = checkout(tmp_path, jinja2="3.1.4")
    nowhere = Settings(root=root, workspace=root, https_proxy="http://127.0.0.1:9")
    with pytest.raises(MachineError, match="cannot be downloaded") as caught:
        advisories.update(root, nowhere)
    assert "--database FILE" in caught.value.problems[0].remedy
    assert not (root / advisories.SNAPSHOT).exists()


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "[" * 100_000),
        '{"complete_until": "x", "source": "", "packages": [], "advisories": []}',
        '{"complete_until": "2026-01-01", "source": "", "advisories": []}',
    ],
)
def test_a_damaged_snapshot(tmp_path: Path, text: str) -> None:
    path = tmp_path / "advisories.json"
    path.write_text(text)
    with pytest.raises(RequestError, match="not a snapshot of advisories"):
        advisories.read(path)


def test_the_projects_snapshot_says_what_it_is() -> None:
    snapshot = advisories.read(ROOT / advisories.SNAPSHOT)
    assert snapshot.source and snapshot.complete_until <= datetime.date.today()
    assert len({each["id"] for each in snapshot.advisories}) == len(snapshot.advisories) > 100


# ----------------------------------------------------------------------------------- the command


def inv(*words: str) -> subprocess.CompletedProcess[str]:
    clean = {name: v for name, v in os.environ.items() if not name.startswith("PADDLE_STACKS_")}
    return subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", *words],
        cwd=ROOT,
        env={**clean, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_fails_for_an_exception_that_has_expired(tmp_path: Path) -> None:
    done = inv("advisories")
    assert done.returncode == 0, done.stderr
    assert "the advisories are complete until" in done.stdout
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.read_text().replace("expires = 20", "expires = 19"))
    done = inv("advisories", "--policy", str(policy), "--json")
    assert done.returncode == 5, done.stderr
    assert "has expired" in done.stderr and "paddlepaddle 3.0.0b2" in done.stderr
    assert json.loads(done.stdout)


def test_an_image_is_scanned_by_its_manifest_without_an_engine(tmp_path: Path) -> None:
    packages = (
        Package("pypi", "jinja2", "3.1.5"),
        Package("pypi", "paddlepaddle-dcu", "3.0.0b2"),
        Package("deb", "libc6", "2.36-9", "glibc", "2.36-9"),
    )
    image = Contents("train:dcu", "sha256:1", "", "debian 12", {}, {}, (), packages, {})
    path = tmp_path / "train.manifest.json"
    path.write_text(json.dumps({**image.to_json(), "reference": "train:dcu"}))
    done = inv("images.scan", "--manifest", str(path))
    assert done.returncode == 5, done.stderr
    for words in (
        "CVE-2025-27516",
        "not scanned: packages of Debian:12: the database is not for them",
        "train:dcu: 2 found, 1 accepted, 1 to act on",
    ):
        assert words in done.stdout

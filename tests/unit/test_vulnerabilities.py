"""Advisories in OSV's format against packages, exceptions with an end, and bad databases."""

from __future__ import annotations

import datetime
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks.errors import RequestError
from paddle_stacks.provenance import vulnerabilities
from paddle_stacks.provenance.contents import Contents, Package
from paddle_stacks.provenance.vulnerabilities import Accepted

TODAY = datetime.date(2026, 11, 24)

# As OSV.dev has them, without what is not read: details, references, severities.
PYPI: dict[str, Any] = {
    "id": "PYSEC-2022-43012",
    "modified": "2023-05-05T02:11:29.000000Z",
    "aliases": ["CVE-2022-40897", "GHSA-r9hx-vwmv-q579"],
    "summary": "ReDoS through crafted HTML",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "setuptools", "purl": "pkg:pypi/setuptools"},
            "ranges": [
                {
                    "type": "GIT",
                    "repo": "https://github.com/pypa/setuptools",
                    "events": [{"introduced": "0"}, {"fixed": "43a9c9bfa6aa626ec2a22540bea28d2"}],
                },
                {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "65.5.1"}]},
            ],
            "versions": ["65.4.0", "65.5.0"],
        }
    ],
}
DEBIAN: dict[str, Any] = {
    "id": "DEBIAN-CVE-2024-2961",
    "modified": "2025-09-18T05:18:32Z",
    "upstream": ["CVE-2024-2961"],
    "details": "The iconv() function may overflow.\nMore of it.",
    "affected": [
        {
            "package": {"ecosystem": "Debian:11", "name": "glibc"},
            "ranges": [
                {
                    "type": "ECOSYSTEM",
                    "events": [{"introduced": "0"}, {"fixed": "2.31-13+deb11u9"}],
                }
            ],
        },
        {
            "package": {"ecosystem": "Debian:12", "name": "glibc"},
            "ranges": [
                {
                    "type": "ECOSYSTEM",
                    "events": [{"introduced": "0"}, {"fixed": "2.36-9+deb12u6"}],
                }
            ],
        },
    ],
}


def image(*packages: Package, os: str = "debian 12") -> Contents:
    return Contents("paddle-stacks/train:cpu", "sha256:1", "", os, {}, {}, (), packages, {})


def deb(version: str, name: str = "libc6", source: str = "glibc") -> Package:
    return Package("deb", name, version, source, version)


def pypi(version: str, name: str = "setuptools") -> Package:
    return Package("pypi", name, version)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A folder as people download it: an archive for an ecosystem."""
    folder = tmp_path / "osv"
    for name, advisory in (("PyPI", PYPI), ("Debian:12", DEBIAN)):
        (folder / name).mkdir(parents=True)
        with zipfile.ZipFile(folder / name / "all.zip", "w") as archive:
            archive.writestr(f"{advisory['id']}.json", json.dumps(advisory))
    return folder


def found(database: Path, *packages: Package, policy: list[Accepted] | None = None) -> Any:
    (report,) = vulnerabilities.scan([image(*packages)], database, policy or [], TODAY)
    return report


@pytest.mark.parametrize(
    ("packages", "ids"),
    [
        ([deb("2.36-9+deb12u5"), pypi("65.5.1")], ["DEBIAN-CVE-2024-2961"]),
        ([deb("2.36-9+deb12u6"), pypi("65.5.0")], ["PYSEC-2022-43012"]),
        # "u10" is later than "u6", and "~" earlier than nothing: dpkg's order, not the alphabet's.
        ([deb("2.36-9+deb12u10"), pypi("66")], []),
        ([deb("2.36-9+deb12u6~bpo1"), pypi("66")], ["DEBIAN-CVE-2024-2961"]),
        # A release candidate is before its release; a local version after: PEP 440.
        ([deb("2.37"), pypi("65.5.1rc1")], ["PYSEC-2022-43012"]),
        ([deb("2.37"), pypi("65.5.1+local")], []),
        ([deb("2.37"), pypi("65.5.0", "Setup_Tools")], []),
        ([deb("2.37"), pypi("65.5.0", "SetupTools")], ["PYSEC-2022-43012"]),
        # The source has the advisory; a binary package of the name of another source has none.
        ([deb("1", "glibc", "other"), pypi("66")], []),
    ],
)
def test_what_is_affected(database: Path, packages: list[Package], ids: list[str]) -> None:
    assert [finding.id for finding in found(database, *packages).findings] == ids


def test_a_finding_says_what_to_do(database: Path) -> None:
    packages = [deb("2.36-9"), deb("2.36-9", "libc-bin"), pypi("66")]
    report = found(database, *packages)
    (finding,) = report.findings
    assert finding.package == "glibc" and finding.version == "2.36-9"
    assert finding.installed == ("libc-bin", "libc6")
    assert finding.fixed == ("2.36-9+deb12u6",)
    assert finding.summary == "The iconv() function may overflow."
    assert report.advisories == {"Debian:12": 1, "PyPI": 1}
    assert report.newest == "2025-09-18T05:18:32Z"
    assert report.faults() == ["DEBIAN-CVE-2024-2961: glibc 2.36-9"]


EVENTS: list[tuple[list[dict[str, str]], dict[str, bool]]] = [
    ([{"introduced": "0"}], {"0.1": True, "9": True}),
    ([{"introduced": "1.0"}, {"fixed": "2.0"}], {"0.9": False, "1.0": True, "2.0": False}),
    ([{"introduced": "1"}, {"last_affected": "2"}], {"2": True, "2.0.1": False, "1.5": True}),
    (
        [{"introduced": "1"}, {"fixed": "2"}, {"introduced": "3"}, {"fixed": "4"}],
        {"1.5": True, "2.5": False, "3.5": True, "4": False},
    ),
    # Not in order.
    ([{"fixed": "2"}, {"introduced": "3"}, {"introduced": "1"}], {"1.5": True, "2.5": False}),
    ([{"introduced": "3"}, {"introduced": "0"}, {"fixed": "2"}], {"1": True, "2.5": False}),
    # Before 1.10, whose text is before 1.9's.
    ([{"introduced": "0"}, {"fixed": "1.10"}], {"1.9": True, "1.10": False}),
    ([{"introduced": "0"}, {"limit": "2"}], {"1": True, "2": False}),
    ([{"introduced": "0"}, {"limit": "*"}], {"99": True}),
    ([], {"1": False}),
]


@pytest.mark.parametrize(("events", "versions"), EVENTS)
def test_ranges(events: list[dict[str, str]], versions: dict[str, bool]) -> None:
    entry = {"ranges": [{"type": "ECOSYSTEM", "events": events}]}
    for later in (vulnerabilities._later_python, vulnerabilities._later_debian):
        assert {v: vulnerabilities.affected(entry, v, later) for v in versions} == versions


def test_a_listed_version_is_affected_whatever_the_ranges_say() -> None:
    entry = {"versions": ["9"], "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "99"}]}]}
    assert vulnerabilities.affected(entry, "9", vulnerabilities._later_python)


def test_commits_are_no_versions() -> None:
    entry = {"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}
    assert not vulnerabilities.affected(entry, "9", vulnerabilities._later_python)


def test_a_withdrawn_advisory_is_none(tmp_path: Path, database: Path) -> None:
    path = database / "withdrawn.json"
    path.write_text(json.dumps({**PYPI, "id": "X-1", "withdrawn": "2024-01-01T00:00:00Z"}))
    report = found(database, deb("2.37"), pypi("65.5.0"))
    assert [finding.id for finding in report.findings] == ["PYSEC-2022-43012"]


def test_a_version_without_an_order_is_told(database: Path) -> None:
    report = found(database, deb("2.37"), pypi("unknown-1"))
    assert [finding.id for finding in report.findings] == ["PYSEC-2022-43012"]


# --------------------------------------------------------------------------------- exceptions

POLICY = """\
[[exception]]
id = "CVE-2022-40897"
package = "setuptools"
reason = "no HTML is parsed"
expires = {expires}
"""


@pytest.mark.parametrize(
    ("expires", "accepted", "faults"),
    [
        ("2026-11-24", "no HTML is parsed", []),
        ("2027-01-01", "no HTML is parsed", []),
        (
            "2026-11-23",
            "",
            ["PYSEC-2022-43012: setuptools 65.5.0", "the exception for CVE-2022-40897 has expired"],
        ),
    ],
)
def test_an_exception_until_its_day(
    tmp_path: Path, database: Path, expires: str, accepted: str, faults: list[str]
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f"# a comment\n\n{POLICY.format(expires=expires)}")
    policy = vulnerabilities.load_policy(path)
    report = found(database, deb("2.37"), pypi("65.5.0"), policy=policy)
    assert [finding.accepted for finding in report.findings] == [accepted]
    assert report.unused == ()
    assert [fault.removeprefix(f"{path}:3: ") for fault in report.faults()] == faults


def test_an_exception_of_another_package_is_unused_and_no_fault(
    tmp_path: Path, database: Path
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY.format(expires="2027-01-01").replace("setuptools", "numpy"))
    policy = vulnerabilities.load_policy(path)
    report = found(database, deb("2.37"), pypi("65.5.0"), policy=policy)
    assert report.findings[0].accepted == ""
    assert report.unused == tuple(policy)
    assert report.faults() == ["PYSEC-2022-43012: setuptools 65.5.0"]


def test_an_expired_exception_fails_even_where_nothing_is_found(
    tmp_path: Path, database: Path
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY.format(expires="2020-01-01"))
    policy = vulnerabilities.load_policy(path)
    report = found(database, deb("2.37"), pypi("66"), policy=policy)
    assert report.faults() == [f"{path}:1: the exception for CVE-2022-40897 has expired"]


def test_what_cannot_be_fixed_can_be_left_out(database: Path) -> None:
    events = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]
    entry = {"package": {"ecosystem": "Debian:12", "name": "glibc"}, "ranges": events}
    (database / "x.json").write_text(json.dumps({"id": "X-1", "affected": [entry]}))
    report = found(database, deb("2.37"), pypi("66"))
    assert report.faults() == ["X-1: glibc 2.37"]
    assert report.faults(fixable=True) == []


def test_the_projects_own_policy_can_be_read() -> None:
    path = Path(__file__).parents[2] / "configs" / "vulnerabilities.toml"
    assert isinstance(vulnerabilities.load_policy(path), list)


@pytest.mark.parametrize(
    ("text", "words", "count"),
    [
        ("exceptions = 1\n", 'unknown key "exceptions"', 1),
        ("exception = 1\n", "must be a list of tables", 1),
        ("[[exception]]\n", 'an exception requires "id"', 4),
        (POLICY.format(expires='"2027-01-01"'), 'requires "expires"', 1),
        (POLICY.format(expires="2027-01-01T00:00:00Z"), 'requires "expires"', 1),
        (POLICY.format(expires="2027-01-01") + "why = 1\n", 'unknown key "why"', 1),
        (POLICY.format(expires="2027-01-01").replace("no HTML is parsed", " "), '"reason"', 1),
        ("[[exception]\n", "is not TOML", 1),
    ],
)
def test_a_bad_policy(tmp_path: Path, text: str, words: str, count: int) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        vulnerabilities.load_policy(path)
    problems = caught.value.problems
    assert words in problems[0].what and len(problems) == count
    assert problems[0].where.startswith(str(path))


# ----------------------------------------------------------------------------------- databases


def test_a_database_that_knows_nothing_of_an_ecosystem_is_refused(database: Path) -> None:
    (database / "PyPI" / "all.zip").unlink()
    with pytest.raises(RequestError, match="no advisory for PyPI") as caught:
        found(database, deb("2.37"), pypi("65.5.0"))
    assert "PyPI/all.zip" in caught.value.problems[0].remedy


def test_one_archive_and_one_file_are_databases(tmp_path: Path, database: Path) -> None:
    assert len(found(database / "PyPI" / "all.zip", pypi("65.5.0")).findings) == 1
    path = tmp_path / "one.json"
    path.write_text(json.dumps(PYPI))
    assert len(found(path, pypi("65.5.0")).findings) == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", b"", "not an advisory in the OSV format"),
        ("x.json", b"[]", "not an advisory in the OSV format"),
        ("x.json", b'{"affected": []}', "not an advisory in the OSV format"),
        ("x.json", b'{"id": "X", "affected": 1}', "not an advisory in the OSV format"),
        ("x.json", b"[" * 100_000, "not an advisory in the OSV format"),
        ("x.zip", b"PK", "damaged"),
        ("x.zip", b"", "damaged"),
    ],
)
def test_a_bad_database(database: Path, name: str, content: bytes, words: str) -> None:
    (database / name).write_bytes(content)
    with pytest.raises(RequestError, match=words) as caught:
        found(database, deb("2.37"), pypi("66"))
    assert name in caught.value.problems[0].where


def test_an_archive_with_a_damaged_member(database: Path) -> None:
    path = database / "bad.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", json.dumps(PYPI))
    content = bytearray(path.read_bytes())
    begin = 30 + len("a.json")  # the local header, and what follows it
    content[begin : begin + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(RequestError, match="the archive of advisories is damaged"):
        found(database, deb("2.37"), pypi("66"))


def test_an_archive_that_fills_the_memory_is_refused(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vulnerabilities, "_LONGEST_ADVISORY", 2**16)
    with zipfile.ZipFile(database / "big.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.json", b" " * 2**20)
    with pytest.raises(RequestError, match="it has more than"):
        found(database, deb("2.37"), pypi("66"))


@pytest.mark.parametrize("name", ["nowhere", "nowhere.zip", "empty"])
def test_no_database(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError) as caught:
        found(tmp_path / name, pypi("66"))
    assert "all.zip" in caught.value.problems[0].remedy


def test_a_distribution_without_advisories_is_told(database: Path) -> None:
    packages = (deb("1"), pypi("66"))
    (report,) = vulnerabilities.scan([image(*packages, os="kylin V10")], database, [], TODAY)
    assert report.unscanned and "kylin" in report.unscanned[0]


def test_the_report_for_people_and_programs(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unused = Accepted("CVE-1", "numpy", "why", TODAY, "policy.toml:1")
    report = found(database, deb("2.36-9"), pypi("66"), policy=[unused])
    vulnerabilities.show(report)
    out = capsys.readouterr().out
    for words in ("2.36-9+deb12u6", "unused exception: CVE-1", "1 found, 0 accepted, 1 to act on"):
        assert words in out
    assert json.loads(json.dumps(report.to_json()))["unused"][0]["expires"] == "2026-11-24"

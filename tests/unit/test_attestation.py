"""What is kept of an image's tests, who is believed to be verified, and who is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paddle_stacks import launch, preflight, verify
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.images import Image
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Plan, backend, make
from paddle_stacks.provenance import attestation
from paddle_stacks.provenance.attestation import Attestation
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
ID, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
PASSED = Attestation(
    ID, "paddle-stacks/infer:cpu", "2025-01-02T03:04:05Z", "c0ffee", ("t::a", "t::b"), (), ("t::c",)
)
FAILED = dataclasses.replace(PASSED, failed=("t::d",))


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    for made in (PASSED, FAILED):
        path = attestation.write(tmp_path / "kept", made)
        assert path == tmp_path / "kept" / f"{'a' * 64}.json"
        assert attestation.read(tmp_path / "kept", ID) == made
    assert [p.name for p in (tmp_path / "kept").iterdir()] == [path.name]


def test_it_is_an_in_toto_statement(tmp_path: Path) -> None:
    found = json.loads(attestation.write(tmp_path, FAILED).read_text())
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["subject"] == [
        {"name": "paddle-stacks/infer:cpu", "digest": {"sha256": "a" * 64}},
    ]
    assert found["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert found["predicate"]["result"] == "FAILED"
    assert found["predicate"]["failedTests"] == ["t::d"]
    assert found["predicate"]["paddle-stacks"]["counts"] == {
        "passed": 2,
        "failed": 1,
        "skipped": 1,
    }


@pytest.mark.parametrize(
    ("passed", "failed", "verified"),
    [(("a",), (), True), (("a",), ("b",), False), ((), (), False), ((), ("b",), False)],
)
def test_only_tests_that_passed_verify(
    passed: tuple[str, ...], failed: tuple[str, ...], verified: bool
) -> None:
    assert dataclasses.replace(PASSED, passed=passed, failed=failed).verified is verified


def test_another_image_has_none(tmp_path: Path) -> None:
    attestation.write(tmp_path, PASSED)
    assert attestation.read(tmp_path, OTHER) is None


def test_a_renamed_file_verifies_no_other_image(tmp_path: Path) -> None:
    attestation.write(tmp_path, PASSED).rename(attestation.path_of(tmp_path, OTHER))
    with pytest.raises(RequestError, match="belongs to another image") as caught:
        attestation.read(tmp_path, OTHER)
    assert caught.value.problems[0].where.endswith(f"{'b' * 64}.json")
    assert "./inv verify" in caught.value.problems[0].remedy


def _without(key: str) -> str:
    found = PASSED.to_statement()
    del found["predicate"][key]
    return json.dumps(found)


def _with(**changes: Any) -> str:
    return json.dumps({**PASSED.to_statement(), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"PASSED"',
        "{}",
        "[" * 100_000,
        _without("passedTests"),
        _without("paddle-stacks"),
        _without("result"),
        _without("configuration"),
        _with(_type="https://in-toto.io/Statement/v0.1"),
        _with(predicateType="https://slsa.dev/provenance/v1"),
        _with(subject=[]),
        _with(subject=[{}, {}]),
        _with(subject="sha256"),
        # Failed tests under a result that says otherwise.
        json.dumps(FAILED.to_statement()).replace('"FAILED"', '"PASSED"'),
        json.dumps(PASSED.to_statement()).replace('["t::a", "t::b"]', '"t::a"'),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    attestation.path_of(tmp_path, ID).write_text(text)
    with pytest.raises(RequestError, match="the attestation cannot be used"):
        attestation.read(tmp_path, ID)


@pytest.mark.parametrize("image_id", ["", "a" * 64, "sha256:../../x", f"sha256:{'A' * 64}"])
def test_what_is_no_id_names_no_file(tmp_path: Path, image_id: str) -> None:
    with pytest.raises(RequestError, match="not an image's id"):
        attestation.path_of(tmp_path, image_id)


# ------------------------------------------------------------------ which tests are of which image


def image(name: str, image_id: str) -> Image:
    return Image(name, (f"paddle-stacks/{name}:cpu",), image_id, 1, (), {})


RECORD = """<?xml version="1.0"?>
<testsuites><testsuite>
  <testcase classname="t" name="own[base]"><properties><property name="image" value="base"/>
    </properties></testcase>
  <testcase classname="t" name="own[infer]"><properties><property name="image" value="infer"/>
    </properties>{infer}</testcase>
  <testcase classname="t" name="all"><properties><property name="image" value=""/>
    </properties>{all}</testcase>
</testsuite></testsuites>
"""


@pytest.mark.parametrize(
    ("infer", "all_", "verified"),
    [
        ("", "", {"base": True, "infer": True}),
        ("<failure message='x'/>", "", {"base": True, "infer": False}),
        ("<error message='x'/>", "", {"base": True, "infer": False}),
        ("<skipped message='x'/>", "", {"base": True, "infer": True}),
        ("", "<failure message='x'/>", {"base": False, "infer": False}),
    ],
)
def test_an_image_is_verified_by_its_own_tests_and_those_of_all(
    tmp_path: Path, infer: str, all_: str, verified: dict[str, bool]
) -> None:
    record = tmp_path / "record.xml"
    record.write_text(RECORD.format(infer=infer, all=all_))
    here = [image("base", ID), image("infer", OTHER), image("train", f"sha256:{'c' * 64}")]
    found = Settings(root=ROOT, workspace=ROOT, attestations=tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    lines = verify.attest(verify.outcomes(record), here, here, found)
    assert [line.split(":")[0] for line in lines] == ["base", "infer"], "train had no test"
    kept = {
        name: attestation.read(tmp_path / "kept", i) for name, i in (("base", ID), ("infer", OTHER))
    }
    assert {name: made and made.verified for name, made in kept.items()} == verified


def test_an_image_that_was_built_meanwhile_gets_none(tmp_path: Path) -> None:
    record = tmp_path / "record.xml"
    record.write_text(RECORD.format(infer="", all=""))
    found = Settings(root=ROOT, workspace=ROOT, attestations=tmp_path)
    before, after = [image("base", ID)], [image("base", OTHER)]
    assert "rebuilt" in verify.attest(verify.outcomes(record), before, after, found)[0]
    assert not list(tmp_path.glob("*.json"))


# ------------------------------------------------------------------------------- before a job runs


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    settings = Settings(root=ROOT, workspace=tmp_path)
    return make(
        JOBS["infer"], [], settings, backend.load("cpu", ROOT), user="1000:1000", suffix="x"
    )


def engine(image_id: str) -> Any:
    return SimpleNamespace(images=SimpleNamespace(get=lambda name: SimpleNamespace(id=image_id)))


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (PASSED, ""),
        (FAILED, "1 of its tests failed on 2025-01-02"),
        (dataclasses.replace(PASSED, passed=()), "no test was run"),
        (dataclasses.replace(PASSED, image_id=OTHER), "its tests have not been run here"),
        (None, "its tests have not been run here"),
        ("{", "the attestation cannot be used"),
    ],
)
@pytest.mark.parametrize("required", [False, True])
def test_who_is_verified(
    tmp_path: Path, plan: Plan, kept: Attestation | str | None, why: str, required: bool
) -> None:
    if isinstance(kept, Attestation):
        attestation.write(tmp_path, kept)
    elif kept:
        attestation.path_of(tmp_path, ID).write_text(kept)
    found = Settings(
        root=ROOT, workspace=tmp_path, attestations=tmp_path, require_verified=required
    )
    if not (required and why):
        assert preflight.check_verified(plan, found, engine(ID)).startswith(why)
        assert bool(preflight.check_verified(plan, found, engine(ID))) is bool(why)
        return
    with pytest.raises(MachineError, match=why) as caught:
        preflight.check_verified(plan, found, engine(ID))
    assert caught.value.status == 3
    (problem,) = caught.value.problems
    assert problem.remedy.startswith("./inv verify --image infer")
    assert problem.where == str(attestation.path_of(tmp_path, ID))


def test_a_job_says_once_that_its_image_is_not_verified(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from paddle_stacks import engine as engines
    from paddle_stacks.executors import docker

    def execute(plan: Plan, client: object, record: object) -> int:
        return 0

    monkeypatch.setattr(engines, "connect", lambda: engine(ID))
    monkeypatch.setattr(launch, "check_files", lambda plan: None)
    monkeypatch.setattr(launch, "_REPORTED_IMAGES", set())
    monkeypatch.setattr(docker, "execute", execute)
    found = Settings(root=ROOT, workspace=tmp_path, attestations=tmp_path)
    assert launch.run(plan, found) == launch.run(plan, found) == 0
    notes = capsys.readouterr().err.splitlines()
    assert notes == [
        "note: paddle-stacks/infer:cpu is not verified: its tests have not been run here;"
        " ./inv verify --image infer"
    ]
    attestation.write(tmp_path, PASSED)
    monkeypatch.setattr(launch, "_REPORTED_IMAGES", set())
    assert launch.run(plan, found) == 0
    assert capsys.readouterr().err == ""

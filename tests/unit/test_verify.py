"""What a verification keeps, and how it is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from paddle_stacks import verify
from paddle_stacks.errors import JobError

RECORD = """<?xml version="1.0"?>
<testsuites><testsuite>
  <testcase classname="tests.images.base.test_base" name="test_one[base]" time="0.1"/>
  <testcase classname="tests.images.base.test_base" name="test_two[base]">
    <failure message="AssertionError: it is not&#10;more">trace</failure></testcase>
  <testcase classname="tests.images.ops" name="test_three">
    <skipped message="no /dev/kfd"/></testcase>
  <testcase classname="tests.images.ops" name="test_four"><error message="no image"/></testcase>
</testsuite></testsuites>
"""


@pytest.fixture
def found(tmp_path: Path) -> list[verify.Outcome]:
    path = tmp_path / "record.xml"
    path.write_text(RECORD)
    return verify.outcomes(path)


def document(found: list[verify.Outcome], **changes: object) -> dict[str, object]:
    return {
        "backend": "dcu",
        "when": "2025-01-02T03:04:05Z",
        "result": verify.tally(found),
        "verified": False,
        "images": [
            {
                "name": "paddle-stacks/ops:dcu",
                "id": "sha256:0123456789abcdef",
                "labels": {"paddle-stacks.ops.archs": "gfx928"},
            }
        ],
        "doctor": {"findings": [{"severity": "error", "check": "hyhal", "saw": "no /opt/hyhal"}]},
        "tests": [vars(outcome) for outcome in found],
        **changes,
    }


def test_every_outcome_is_told_with_its_reason(found: list[verify.Outcome]) -> None:
    assert [(o.result, o.why) for o in found] == [
        ("passed", ""),
        ("failed", "AssertionError: it is not"),
        ("skipped", "no /dev/kfd"),
        ("error", "no image"),
    ]
    assert found[0].test == "tests.images.base.test_base::test_one[base]"


def test_a_table_that_a_test_recorded_is_in_the_report(tmp_path: Path) -> None:
    path = tmp_path / "record.xml"
    path.write_text(
        '<testsuite><testcase classname="tests.images.ops-dcu.test_operators" name="test_one">'
        '<properties><property name="table" value="| a |&#10;|---|&#10;| 1 |"/></properties>'
        "</testcase></testsuite>"
    )
    (outcome,) = verify.outcomes(path)
    assert outcome.table == "| a |\n|---|\n| 1 |"
    text = verify.as_markdown(document([outcome]))
    assert f"## {outcome.test}\n\n{outcome.table}\n" in text


def test_the_tally_has_what_went_wrong_first(found: list[verify.Outcome]) -> None:
    assert verify.tally(found) == "1 failed, 1 error, 1 passed, 1 skipped"
    assert verify.tally([]) == "no tests"


def test_a_record_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "record.xml"
    path.write_text(RECORD[:200])
    with pytest.raises(JobError, match="cannot be read"):
        verify.outcomes(path)


def test_the_report_says_what_failed_before_what_passed(found: list[verify.Outcome]) -> None:
    text = verify.as_markdown(document(found))
    order = [
        text.index(words) for words in ("not verified", "no /opt/hyhal", "## Failed", "## Passed")
    ]
    assert order == sorted(order)
    assert "| paddle-stacks/ops:dcu | 0123456789ab | unknown | gfx928 |" in text
    assert "`tests.images.ops::test_three`: no /dev/kfd" in text


def test_a_doctor_that_cannot_look_is_said(found: list[verify.Outcome]) -> None:
    text = verify.as_markdown(document(found, doctor={"error": "error: no engine"}))
    assert "The doctor failed: error: no engine" in text


def test_the_report_is_written_twice_under_one_name(
    tmp_path: Path, found: list[verify.Outcome]
) -> None:
    path = verify.write(tmp_path, document(found))
    assert path.name == "dcu-20250102T030405Z.md"
    assert json.loads(path.with_suffix(".json").read_text())["result"] == verify.tally(found)


def test_what_builds_is_no_part_of_a_verification() -> None:
    root = Path(__file__).parents[2]
    found = {
        str(path.relative_to(root))
        for path in (root / "tests" / "images").rglob("test_*.py")
        if re.search(r"buildx|compose.*build|build\.build", path.read_text())
    }
    assert found == set(verify.BUILDING)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(0, 0), (1, 5), (2, 130), (3, 5), (4, 5), (5, 5), (-9, 137), (-15, 143)],
)
def test_the_status_is_a_documented_one(status: int, expected: int) -> None:
    assert verify.exit_status(status) == expected

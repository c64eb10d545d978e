"""Driver versions and their compatibility with DTK releases."""

from __future__ import annotations

import pytest

from paddle_stacks.dcu import cards, driver
from paddle_stacks.dcu.driver import Version, compatibility_problem, parse_version
from paddle_stacks.dcu.host import Driver
from paddle_stacks.errors import MachineError


@pytest.mark.parametrize(
    ("text", "version", "normalized"),
    [
        ("6.3.31-V1.5.0a", Version(6, 3, 31, "", (1, 5, 0), "a"), "6.3.31-V1.5.0a"),
        ("6.2.17a\n", Version(6, 2, 17, "a"), "6.2.17a"),
        ("rock-5.7.1-6.2.26-V1.5", Version(6, 2, 26, "", (1, 5)), "6.2.26-V1.5"),
        ("rock-6.3.16-V1.1.0a", Version(6, 3, 16, "", (1, 1, 0), "a"), "6.3.16-V1.1.0a"),
        ("rock-6.3.8+", Version(6, 3, 8), "6.3.8"),
        ("rock-4.0-23-5.6.25", Version(5, 6, 25), "5.6.25"),
        ("rock-5.7.1 6.2.35", Version(6, 2, 35), "6.2.35"),
    ],
)
def test_versions_as_drivers_packages_and_tables_write_them(
    text: str, version: Version, normalized: str
) -> None:
    assert parse_version(text) == version
    assert str(version) == normalized
    assert parse_version(normalized) == version


def test_versions_compare() -> None:
    texts = ["5.6.25", "5.16.18", "6.2.17", "6.2.17a", "6.2.26", "6.2.26-V1.5", "6.3.8", "6.3.16"]
    versions = [parse_version(text) for text in texts]
    assert sorted(versions, reverse=True) == versions[::-1]


@pytest.mark.parametrize("text", ["", "6.2", "six", "6.2.17.4", "६.२.१७"])
def test_an_invalid_version_is_an_error(text: str) -> None:
    with pytest.raises(MachineError) as raised:
        parse_version(text)
    assert raised.value.problems[0].remedy


@pytest.mark.parametrize(
    ("module", "version", "dtk"),
    [
        ("hydcu", "6.2.17a", "24.04.1"),  # PaddleNLP
        ("hydcu", "rock-5.7.1-6.2.26-V1.5", "24.04.3"),  # GPUStack
        ("hydcu", "6.2.35-V1.6.7", "25.04"),
        ("hycu", "6.3.16-V1.1.0a", "25.04.2"),  # GPUStack
        ("hycu", "6.3.31-V1.5.0a", "26.04"),  # newer than the table
        ("hydcu", "5.16.29", "23.10"),
    ],
)
def test_compatible_drivers(module: str, version: str, dtk: str) -> None:
    assert compatibility_problem(Driver(module, version), dtk) is None


@pytest.mark.parametrize("version", ["6.3.8", "6.3.16", "6.3.31-V1.5.0a"])
def test_driver_6_3_under_dtk_24_04_is_the_failure_that_was_reported(version: str) -> None:
    problem = compatibility_problem(Driver("hycu", version), "24.04.1")
    assert problem is not None
    assert "/sys/module/hydcu" in problem.what and "78071" in problem.what
    assert problem.where == "/sys/module/hycu/version"
    assert "6.2 series" in problem.remedy and "6.2.17a" in problem.remedy


@pytest.mark.parametrize(
    ("version", "dtk", "supported"),
    [
        ("5.16.29", "24.04.1", "23.04, 23.10"),
        ("5.6.25", "24.04.1", "21.04"),
        ("6.2.17a", "25.04", "24.04"),
        ("7.0.1", "24.04.1", "25.04"),
    ],
)
def test_an_incompatible_driver_names_the_supported_dtks(
    version: str, dtk: str, supported: str
) -> None:
    problem = compatibility_problem(Driver("hydcu", version), dtk)
    assert problem is not None and supported in problem.what and problem.remedy


def test_the_recommended_driver_supports_the_cards() -> None:
    driver = Driver("hycu", "6.3.31-V1.5.0a")
    with_another = compatibility_problem(driver, "24.04.1", {"K100_AI"})
    assert with_another is not None and "6.2 series" in with_another.remedy
    with_none = compatibility_problem(driver, "24.04.1", {"BW1000"})
    assert with_none is not None
    assert "6.2 series" not in with_none.remedy
    assert "DTK 25.04 (dtk_image)" in with_none.remedy


def test_an_unknown_version_is_a_problem_too() -> None:
    problem = compatibility_problem(Driver("amdgpu", "whatever"), "24.04.1")
    assert problem is not None and problem.where == "/sys/module/amdgpu/version"


def test_every_row_has_a_source_and_names_known_cards() -> None:
    for row in driver.rows():
        assert row.source and row.dtk
        assert set(row.cards) <= set(cards.card_types())

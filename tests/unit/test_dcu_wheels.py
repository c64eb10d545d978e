"""Wheels, and the wheels, DTKs and drivers that others ran together."""

from __future__ import annotations

import pytest

from paddle_stacks.dcu import wheels
from paddle_stacks.dcu.cards import card_types
from paddle_stacks.dcu.driver import rows
from paddle_stacks.dcu.host import Driver


def names(driver: Driver, *architectures: str, works: bool = True) -> list[str]:
    return [str(r) for r in wheels.matching(driver, architectures) if r.works == works]


OLD, NEW = Driver("hydcu", "6.2.17a"), Driver("hycu", "6.3.16-V1.1.0a")


def test_the_wheel_of_the_images_is_in_the_table() -> None:
    wheel = wheels.current()
    assert wheel is not None and wheel.version == "3.0.0b2"
    assert card_types()["K100_AI"].architecture in wheel.architectures
    assert card_types()["BW1000"].architecture not in wheel.architectures
    assert wheels.find("2.4") is None


def test_every_report_has_a_result_and_a_source() -> None:
    releases = {release for row in rows() for release in row.dtk}
    for report in wheels.combinations():
        assert report.wheels and report.result and report.source
        assert {".".join(dtk.split(".")[:2]) for dtk in report.dtk} <= releases
        cards = {"gfx906", "gfx926", "gfx928"}
        assert set(report.architectures) <= cards or "compiled from source" in report.wheels[0]


def test_a_driver_of_dtk_24_runs_its_wheels() -> None:
    assert names(OLD, "gfx928") == [
        "3.0.0b2 on DTK 24.04.1",
        "3.0.0b1 on DTK 24.04.1",
        "3.0.0 on DTK 24.04.1",
        "3.2.1 on DTK 24.04.1",
    ]
    assert "3.2.1 on DTK 24.04.1" not in names(OLD, "gfx906"), "was run on K100_AI only"


def test_a_driver_of_dtk_25_runs_others() -> None:
    assert names(NEW, "gfx926") == ["3.2.1 or 3.3.1 on DTK 25.04.2"]
    assert names(NEW, "gfx928") == []
    assert names(NEW, "gfx906", works=False) == [
        "3.0.0 … 3.3.1 on DTK 25.04.1",
        "3.3.0 on DTK 24.04.1",
    ]


def test_no_published_wheel_has_code_for_a_bw1000() -> None:
    assert names(NEW, "gfx936") == ["develop, compiled from source, on DTK 25.04"]
    assert names(OLD, "gfx936") == []


@pytest.mark.parametrize("driver", [OLD, NEW])
def test_a_report_must_be_about_all_cards_of_the_host(driver: Driver) -> None:
    assert names(driver, "gfx928", "gfx936") == []


def test_a_driver_between_them_runs_both() -> None:
    both = Driver("hydcu", "6.2.26-V1.5")
    assert "3.2.1 or 3.3.1 on DTK 25.04.2" in names(both, "gfx906")
    assert "3.0.0b2 on DTK 24.04.1" in names(both, "gfx906")

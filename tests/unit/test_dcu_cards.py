"""Card types, and parsing and checking of --devices."""

from __future__ import annotations

import pytest

from paddle_stacks.dcu.cards import card_types, check_free, find, parse_devices
from paddle_stacks.dcu.smi import Card
from paddle_stacks.errors import RequestError


def test_k100_ai_matches_the_documentation() -> None:
    card = card_types()["K100_AI"]
    assert (card.architecture, card.memory_mib) == ("gfx928", 65520)
    assert set(card.dtypes) == {"fp32", "fp16", "bf16", "int8"}


def test_every_card_has_an_architecture_and_a_source() -> None:
    for card in card_types().values():
        assert card.architecture.startswith("gfx") and card.source


@pytest.mark.parametrize(
    ("name", "card_type"),
    [
        ("k100_ai", "K100_AI"),
        ("K100-AI", "K100_AI"),
        ("BW", "BW1000"),
        ("K100_LC", "K100"),
        ("k500sm-ai", "K500SM_AI"),
    ],
)
def test_names_and_aliases_in_any_spelling(name: str, card_type: str) -> None:
    card = find(name)
    assert card is not None and card.name == card_type


def test_an_unknown_card_is_none() -> None:
    assert find("MI300X") is None and find("") is None


@pytest.mark.parametrize(
    ("text", "devices"),
    [("0", (0,)), ("0,1,2-5", (0, 1, 2, 3, 4, 5)), (" 3 , 1 - 2 ", (3, 1, 2)), ("7-7", (7,))],
)
def test_devices(text: str, devices: tuple[int, ...]) -> None:
    assert parse_devices(text) == devices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a device index is missing"),
        ("0,,1", "a device index is missing"),
        ("0,x", '"x" is not a device index'),
        ("-1", '"-1" is not a device index'),
        ("1-2-3", '"1-2-3" is not a device index'),
        ("٣", '"٣" is not a device index'),
        ("5-2", "the range 5-2 is reversed"),
        ("0-9999999999", "device index 9999999999 is above the maximum, 255"),
        ("0,1-3,2", "device 2 is listed twice"),
    ],
)
def test_invalid_devices(text: str, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse_devices(text)
    assert message in [problem.what for problem in raised.value.problems]
    assert all(problem.remedy for problem in raised.value.problems)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(RequestError) as raised:
        parse_devices("a,5-2,1,1")
    assert len(raised.value.problems) == 3


CARDS = (Card(0), Card(1, vram_percent=97.0, use_percent=34.2), Card(2, use_percent=50.0), Card(3))


def test_free_devices() -> None:
    assert check_free((0, 3), CARDS) == []
    assert check_free((), CARDS) == []


def test_devices_that_are_missing_in_use_or_repeated() -> None:
    problems = check_free((1, 2, 8, 0, 0), CARDS)
    assert [problem.what for problem in problems] == [
        "device 1 is in use: 97 % of its memory and 34 % of its compute units",
        "device 2 is in use: 50 % of its compute units",
        "device 8 does not exist",
        "device 0 is listed twice",
    ]
    assert "free devices: 0, 3" in problems[0].remedy
    assert "0, 1, 2, 3" in problems[2].remedy

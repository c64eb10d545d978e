"""The kinds of card, and the cards that --devices asks for."""

from __future__ import annotations

import pytest

from paddle_stacks.dcu.cards import check_free, find, known, parse_devices
from paddle_stacks.dcu.smi import Card
from paddle_stacks.errors import RequestError


def test_k100_ai_is_what_the_documents_say() -> None:
    card = known()["K100_AI"]
    assert (card.architecture, card.memory_mib) == ("gfx928", 65520)
    assert [card.supports(kind) for kind in ("fp32", "float16", "int8")] == [True] * 3
    assert card.supports("bf16") is False and card.supports("bfloat16") is False
    assert card.supports("fp8") is False
    assert card.supports("fp64") is None


def test_every_card_has_an_architecture_and_a_source() -> None:
    for card in known().values():
        assert card.architecture.startswith("gfx") and card.source
        assert not set(card.dtypes) & set(card.no_dtypes)


@pytest.mark.parametrize(
    ("name", "found"),
    [("k100_ai", "K100_AI"), ("K100-AI", "K100_AI"), ("BW", "BW1000"), ("K100_LC", "K100")],
)
def test_names_as_programs_and_people_write_them(name: str, found: str) -> None:
    card = find(name)
    assert card is not None and card.name == found


def test_an_unknown_card_is_none() -> None:
    assert find("MI300X") is None and find("") is None


@pytest.mark.parametrize(
    ("text", "devices"),
    [("0", (0,)), ("0,1,2-5", (0, 1, 2, 3, 4, 5)), (" 3 , 1 - 2 ", (3, 1, 2)), ("7-7", (7,))],
)
def test_devices(text: str, devices: tuple[int, ...]) -> None:
    assert parse_devices(text) == devices


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a card is missing"),
        ("0,,1", "a card is missing"),
        ("0,x", '"x" is not a card'),
        ("-1", '"-1" is not a card'),
        ("1-2-3", '"1-2-3" is not a card'),
        ("٣", '"٣" is not a card'),
        ("5-2", "5-2 runs backwards"),
        ("0-9999999999", "no host has a card 9999999999"),
        ("0,1-3,2", "card 2 is named twice"),
    ],
)
def test_devices_that_are_none(text: str, said: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse_devices(text)
    assert said in [problem.what for problem in raised.value.problems]
    assert all(problem.remedy for problem in raised.value.problems)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(RequestError) as raised:
        parse_devices("a,5-2,1,1")
    assert len(raised.value.problems) == 3


CARDS = (Card(0), Card(1, vram_percent=97.0, use_percent=34.2), Card(2, use_percent=50.0), Card(3))


def test_cards_that_are_there_and_free() -> None:
    assert check_free((0, 3), CARDS) == []
    assert check_free((), CARDS) == []


def test_cards_that_are_not_there_in_use_or_named_twice() -> None:
    problems = check_free((1, 2, 8, 0, 0), CARDS)
    assert [problem.what for problem in problems] == [
        "card 1 is in use: 97 % of its memory and 34 % of its units",
        "card 2 is in use: 50 % of its units",
        "there is no card 8",
        "card 0 is named twice",
    ]
    assert "free cards: 0, 3" in problems[0].remedy
    assert "0, 1, 2, 3" in problems[2].remedy

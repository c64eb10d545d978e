"""How the demo judges answers."""

from __future__ import annotations

import pytest

from paddle_stacks.demo import Answer, _print_answers, exact_match, normalized


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Blue.", "blue"),
        ("  Blue \n", "blue"),
        ("It is\n  blue", "it is blue"),
        ("蓝色。", "蓝色"),
        ("蓝色", "蓝色"),
        ("Straße", "strasse"),
        ("3.5", "3.5"),
        ("blue .", "blue"),
        ("", ""),
        ("blue..", "blue."),
        ("blue!", "blue!"),
    ],
)
def test_normalized(text: str, same: str) -> None:
    assert normalized(text) == same


def test_exact_match_is_the_share_of_right_answers() -> None:
    pairs = [("Blue.", "blue"), ("Red.", "It is red."), ("三年。", "三年"), ("4", "5")]
    assert exact_match(pairs) == 0.5
    assert exact_match(pairs[:1]) == 1.0
    assert exact_match(pairs[3:]) == 0.0


def test_exact_match_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answers"):
        exact_match([])


def test_the_answers_are_printed_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    _print_answers([Answer("Which colour?", "Blue.", "I do not\nknow " + "x" * 300, "blue")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Q        Which colour?", "expected Blue."]
    assert lines[2].startswith("before   ✗ I do not know xxx") and lines[2].endswith("…")
    assert lines[3] == "after    ✓ blue"

"""Other people's text in log lines."""

from __future__ import annotations

import json

import pytest

from paddle_stacks.jobs.printable import escape, shorten


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain, 中文, été, 🐶", "plain, 中文, été, 🐶"),
        ("\x1b[2J\x1b]0;title\x07", r"\u001b[2J\u001b]0;title\u0007"),
        ("a\nb\rc\x7f\x9bd", r"a\nb\rc\u007f\u009bd"),
        ("abc\u202ecba\u2066", r"abc\u202ecba\u2066"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\udcff", r"\udcff"),
        ("tag\U000e0041", r"tag\udb40\udc41"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, safe: str) -> None:
    assert escape(text) == safe


def test_escaped_json_is_the_same_json() -> None:
    value = {"path": "/\x1b[31m\u202e\U000e0041", "中": "文\u2028"}
    line = escape(json.dumps(value, ensure_ascii=False))
    assert json.loads(line) == value and line.isprintable()


def test_long_texts_are_cut() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("x" * 1000, 10) == "xxxxxxxxxx… (990 more characters)"

"""Text as it comes: whole characters, nothing beyond a stop text."""

from __future__ import annotations

import pytest

from entrypoints.inference.stream import TextStream


def from_bytes(tokens: list[int]) -> str:
    """A tokenizer with a token per byte; 256 is a special token without text."""
    return bytes(token for token in tokens if token < 256).decode("utf-8", errors="replace")


def pieces(text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(from_bytes, stops)
    found = [stream.push(byte) for byte in text.encode()]
    return [*found, stream.finish()], stream


@pytest.mark.parametrize("text", ["plain", "北京是中国的首都。", "🐶👩‍👩‍👧‍👦 ok", "naïve\n\n", ""])
def test_pieces_make_the_text_and_none_is_half_a_character(text: str) -> None:
    found, stream = pieces(text)
    assert "".join(found) == stream.text == text
    assert not any("\ufffd" in piece for piece in found)


def test_a_character_comes_with_its_last_byte() -> None:
    found, _ = pieces("a北b")
    assert found == ["a", "", "", "北", "b", ""]


def test_bytes_that_are_no_character_come_when_that_is_certain() -> None:
    stream = TextStream(from_bytes)
    assert [stream.push(byte) for byte in (0x41, 0xFF, 0x42)] == ["A", "", "\ufffdB"]
    assert stream.push(0xE5) == ""
    assert stream.finish() == ""  # cut within a character
    assert stream.text == "A\ufffdB"


def test_a_special_token_has_no_text() -> None:
    stream = TextStream(from_bytes)
    assert [stream.push(token) for token in (0x41, 256, 0x42)] == ["A", "", "B"]


def test_spaces_that_depend_on_the_token_before() -> None:
    """Sentencepiece drops the space in front of the first token, and of that one alone."""
    words = ["▁Hello", "▁big", "▁world", "s"]
    stream = TextStream(lambda tokens: "".join(words[t] for t in tokens).replace("▁", " ").lstrip())
    assert [stream.push(token) for token in range(4)] == ["Hello", " big", " world", "s"]


def test_a_stop_text_ends_the_answer_and_is_cut() -> None:
    found, stream = pieces("one END two", ("END",))
    assert "".join(found) == stream.text == "one "
    assert stream.stopped


def test_the_beginning_of_a_stop_text_is_held_until_it_is_certain() -> None:
    found, stream = pieces("a EN b", ("END",))
    assert found == ["a", " ", "", "", "EN ", "b", ""]
    assert not stream.stopped


def test_what_was_held_comes_at_the_end() -> None:
    found, stream = pieces("a EN", ("END",))
    assert found == ["a", " ", "", "", "EN"]
    assert stream.text == "a EN"


def test_the_first_of_several_stop_texts_counts() -> None:
    _, stream = pieces("x\n\nUser: y", ("User:", "\n\n"))
    assert stream.text == "x"


def test_a_stop_text_that_begins_within_its_own_beginning() -> None:
    _, stream = pieces("aaab", ("aab",))
    assert (stream.text, stream.stopped) == ("a", True)


def test_a_stop_text_of_characters_of_several_bytes() -> None:
    found, stream = pieces("好。完", ("。",))
    assert "".join(found) == stream.text == "好"

"""Encoding by pieces: what Qwen2's expression finds in the pieces is what it finds in the text."""

from __future__ import annotations

import random
import sys
import unicodedata
from array import array
from collections.abc import Sequence

import pytest
from tokenizers import Regex, pre_tokenizers

from entrypoints.preparing import encoding
from entrypoints.preparing.encoding import Batch, CachedEncoder, odd_characters, stored

# White_Space in Unicode's PropList.txt: what \s is to the tokenizer's expression.
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
SPACES += "\u200a\u2028\u2029\u202f\u205f\u3000"
LETTERS = {chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c))[0] in "LN"}
ODD = odd_characters(LETTERS, set(SPACES))
EXPRESSION = pre_tokenizers.Split(Regex(encoding._SPLIT), behavior="isolated")


class Whole:
    """Finds what the expression finds, in the place of tokens, and counts the texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> list[bytes]:
        self.texts += texts
        return ["".join(f"{found}|" for found in _found(text)).encode() for text in texts]


def _found(text: str) -> list[str]:
    text = unicodedata.normalize("NFC", text)
    return [found for found, _ in EXPRESSION.pre_tokenize_str(text)]


@pytest.fixture
def whole() -> Whole:
    return Whole()


@pytest.fixture
def encode(whole: Whole) -> CachedEncoder:
    return CachedEncoder(whole, ODD)


# Of every kind that the expression tells apart, and what it treats by itself.
ALPHABET = [
    *("a", "B", "é", "\u017f", "中", "ა", "²", "Ⅷ", "0", "7", "٣"),
    *("'", "'s", "'LL", "'ve", ".", "_", "-", "(", "…", "😀", "\u0301", "\u200d", "\ufeff"),
    *(" ", " ", " ", "  ", "\t", "\n", "\n", "\r\n", "\x0b", "\x85", "\xa0", "\u3000", "\u2028"),
]


@pytest.mark.parametrize("seed", range(8))
def test_the_pieces_hold_what_the_text_holds(
    seed: int, whole: Whole, encode: CachedEncoder
) -> None:
    pick = random.Random(seed)
    texts = ["".join(pick.choices(ALPHABET, k=pick.randint(1, 12))) for _ in range(4000)]
    assert encode(texts) == Whole()(texts)
    assert encode(texts) == Whole()(texts), "and a second time"


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox -- it's \"here\", isn't it?  Yes.\n\n\tdef f(x):\n\t    return x[1]\n",
        "   1,000 apples   and 3.14\r\n\r\n  (e.g.) a_b __init__ 'tis don'T\t7\t x \t y",
        "a" * 100 + " " + "b" * 100,
        "x\n \n  \n   y",
        "",
        " ",
        "\n",
    ],
)
def test_texts_as_they_are_written(text: str, encode: CachedEncoder) -> None:
    assert encode([text]) == Whole()([text])
    assert "".join(encode._split(text)) == unicodedata.normalize("NFC", text)


def test_a_piece_is_encoded_once(whole: Whole, encode: CachedEncoder) -> None:
    encode(["one two three", "two three two"])
    assert sorted(whole.texts) == [" three", " two", "one", "two"]
    whole.texts.clear()
    encode(["one three two"])
    assert whole.texts == []


def test_what_does_not_come_again_is_not_taken_apart(whole: Whole, encode: CachedEncoder) -> None:
    chinese = "水传感器的电池可以用多久没有人知道它的答案是什么"
    encode([chinese])
    assert whole.texts == [chinese]


def test_a_character_that_python_takes_for_another_thing_leaves_a_text_whole(
    whole: Whole,
) -> None:
    # A letter since Unicode 16, which the tokenizer's expression may know and Python may not.
    encode = CachedEncoder(whole, ODD | {"\U00010d50"})
    texts = ["a b\x1cc d", "one two \U00010d50 three four"]
    assert encode(texts) == Whole()(texts)
    assert sorted(whole.texts) == sorted(texts)


def test_only_separators_are_another_thing_to_python() -> None:
    assert set("\x1c\x1d\x1e\x1f") == ODD


def test_what_is_remembered_has_a_limit(
    whole: Whole, encode: CachedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_REMEMBERED", 100)
    for start in range(0, 3000, 50):
        texts = [
            " ".join(f"w{chr(97 + n % 26)}{'x' * (n // 26)}" for n in range(start, start + 50))
        ]
        assert encode(texts) == Whole()(texts)
        assert len(encode._known) <= 100 + 2 * 50
    assert max(map(len, encode._known)) <= encoding._LONGEST_REMEMBERED


@pytest.mark.parametrize(("code", "item"), [(8, 2), (4, 4)])
def test_tokens_as_they_are_stored(code: int, item: int) -> None:
    batch = Batch(code)
    for ids in ([1, 2, 3], [], [65535]):
        batch.add(stored(ids, code))
    assert len(batch.tokens) == 4 * item
    assert array("H" if item == 2 else "i", batch.tokens).tolist() == [1, 2, 3, 65535]
    assert array("i", batch.sizes).tolist() == [3, 0, 1]


def test_an_id_that_does_not_fit() -> None:
    with pytest.raises(OverflowError):
        stored([65536], 8)

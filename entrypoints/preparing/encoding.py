"""Batched tokenization with the same IDs as PaddleNLP's own tokenizer.

Upstream calls ``tokenize`` and ``convert_tokens_to_ids`` for each document. For tokenizers based
on the tokenizers library or sentencepiece, these return the same IDs for a whole batch in
native code. Each job compares them on a few difficult texts at its start, and uses the slow
method if one differs.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from entrypoints.runtime.console import warn

__all__ = [
    "Batch",
    "CachedEncoder",
    "Encode",
    "encoder",
    "ids_of_one",
    "odd_characters",
    "stored",
    "type_code",
]

Encode = Callable[[Sequence[str]], "list[bytes]"]
"""Returns the tokens of each text, as they are stored."""

_Ids = Callable[[Sequence[str]], "list[list[int]]"]
_ARRAYS = {8: "H", 4: "i"}

# Qwen2's expression, which _PIECE is designed for; other expressions are not supported.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORD, _SIGNS = r"[^\W\d_]+", r"(?:[^\w\s]|_)+"
_PIECE = re.compile(
    rf" ?{_WORD}"
    rf"| ?{_SIGNS}(?:{_WORD}|[\r\n]+)?"
    r"| ?\d{1,3}"
    r"|\s+(?= \S)"
    r"|\s*[\r\n]+(?=\S)"
    rf"|\s+(?:{_WORD}|{_SIGNS}(?:{_WORD}|[\r\n]+)?|\d)?"
)
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
# The size of the cache and the maximum length of a piece: about 40 MB per process, and more than
# the common words of a language.
_REMEMBERED, _LONGEST_REMEMBERED = 200_000, 32
# Texts with longer pieces on average, such as Chinese, have few repeated pieces.
_LONG_PIECES = 10

_HARD = (
    "The quick brown fox, 3.14159 and 1,000,000 jumps.",
    "  two  spaces\tand\ttabs \n\n new lines\r\n",
    "naïve café, Ünïcödé, e\u0301 (combining), ﬁ, ①, Ⅷ, ™",
    "中文 水传感器的电池可以用多久。日本語のテスト。한국어",
    "😀👍🏽👨\u200d👩\u200d👧 \u200b\ufeff\u00a0 end",
    "don't they'LL I've <s> </s> <unk> <|endoftext|> <0x0A> ▁under_score▁",
    "a" * 300 + " " * 40 + "0123456789" * 5,
    "x",
)


class Batch:
    """Tokens of documents in stored form.

    Args:
        code: the type of a token (``paddle_stacks.jobs.corpus.ITEMS``).
    """

    def __init__(self, code: int) -> None:
        self._item = array(_ARRAYS[code]).itemsize
        self._tokens: list[bytes] = []
        self._sizes = array("i")

    def add(self, tokens: bytes) -> None:
        """Add a document."""
        self._tokens.append(tokens)
        self._sizes.append(len(tokens) // self._item)

    @property
    def tokens(self) -> bytes:
        """All tokens."""
        return b"".join(self._tokens)

    @property
    def sizes(self) -> bytes:
        """The number of tokens of each document, 4 bytes each."""
        return self._sizes.tobytes()


def type_code(tokenizer: Any) -> int:
    """Return the stored type of a tokenizer's IDs, by upstream's rule."""
    return 8 if tokenizer.vocab_size < 2**16 - 1 else 4


def ids_of_one(tokenizer: Any, text: str) -> list[int]:
    """Return the IDs of a text like upstream's script."""
    ids: list[int] = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    return ids


def stored(ids: Sequence[int], code: int) -> bytes:
    """Return IDs in stored form.

    Raises:
        OverflowError: an ID exceeds the type.
    """
    return array(_ARRAYS[code], ids).tobytes()


def encoder(tokenizer: Any) -> Encode:
    """Return the fastest encoder for a tokenizer."""
    code = type_code(tokenizer)
    slow = _stored(lambda texts: [ids_of_one(tokenizer, text) for text in texts], code)
    batched = _batched(tokenizer, code)
    if batched is None:
        return slow
    # Twice, to check cached pieces as well.
    if not batched(_HARD) == batched(_HARD) == slow(_HARD):
        warn("the batch tokenizer differs from PaddleNLP's, so the slower one is used")
        return slow
    return batched


def _stored(ids: _Ids, code: int) -> Encode:
    return lambda texts: [stored(token_ids, code) for token_ids in ids(texts)]


def _batched(tokenizer: Any, code: int) -> Encode | None:
    from paddlenlp.transformers import LlamaTokenizer, PretrainedTokenizerFast, Qwen2Tokenizer

    if isinstance(tokenizer, PretrainedTokenizerFast):
        return _stored(_by_rust(tokenizer.backend_tokenizer), code)
    if getattr(tokenizer, "do_lower_case", False) or getattr(
        tokenizer, "split_special_tokens", False
    ):
        return None
    # Subclasses may split differently.
    if type(tokenizer) is LlamaTokenizer:
        pieces = tokenizer.sp_model
        ids: _Ids = lambda texts: pieces.encode(texts, out_type=int, num_threads=1)  # noqa: E731
        return _around_special(tokenizer, _stored(ids, code), code)
    if type(tokenizer) is Qwen2Tokenizer:
        return _around_special(tokenizer, _remembering(tokenizer, code), code)
    return None


def _by_rust(backend: Any) -> _Ids:
    backend.no_truncation()
    backend.no_padding()
    return lambda texts: [
        encoding.ids
        for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)
    ]


def _remembering(tokenizer: Any, code: int) -> Encode:
    whole = _stored(_by_rust(_byte_level(tokenizer)), code)
    if tokenizer.pat.pattern != _SPLIT:
        return whole
    import regex

    every = _every_character()
    letters, spaces = (set(regex.findall(kind, every)) for kind in (r"[\p{L}\p{N}]", r"\s"))
    return CachedEncoder(whole, odd_characters(letters, spaces))


def _byte_level(tokenizer: Any) -> Any:
    """Return Qwen2Tokenizer's Python algorithm as a tokenizer of the tokenizers library."""
    from paddlenlp.transformers.qwen2.tokenizer import PRETOKENIZE_REGEX
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    backend = Tokenizer(models.BPE(vocab=tokenizer.encoder, merges=merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return backend


class CachedEncoder:
    """Encodes texts in pieces and caches the tokens of each piece.

    Byte-pair encoding is applied to each match of the tokenizer's expression, and the matches in
    the pieces are those in the text. A piece ends at a position that no match or lookahead
    crosses: after letters and digits, before a single space, and after newlines. Punctuation
    stays with the following letters, and other white space with its surroundings.

    Args:
        whole: returns the tokens of texts, or of pieces.
        odd: characters that Python's expressions classify differently from the tokenizer's;
            texts with them are not split.
    """

    def __init__(self, whole: Encode, odd: frozenset[str]) -> None:
        self._whole = whole
        self._odd = odd
        self._odd_ascii = [character for character in odd if character.isascii()]
        self._known: dict[str, bytes] = {}

    def __call__(self, texts: Sequence[str]) -> list[bytes]:
        """Return the tokens of each text."""
        split = [self._split(text) for text in texts]
        cache = self._known
        if len(cache) > _REMEMBERED:
            cache.clear()
        unknown = list({*chain.from_iterable(split)}.difference(cache))
        cache.update(zip(unknown, self._whole(unknown), strict=True))
        tokens = [b"".join([cache[piece] for piece in pieces]) for pieces in split]
        for piece in unknown:
            if len(piece) > _LONGEST_REMEMBERED:
                del cache[piece]
        return tokens

    def _split(self, text: str) -> list[str]:
        # Normalized before splitting, as in PaddleNLP.
        text = unicodedata.normalize("NFC", text)
        if any(character in text for character in self._odd_ascii):
            return [text]
        if not text.isascii() and not self._odd.isdisjoint(_BEYOND_ASCII.findall(text)):
            return [text]
        pieces: list[str] = _PIECE.findall(text)
        return pieces if len(text) <= _LONG_PIECES * len(pieces) else [text]


def odd_characters(letters: set[str], spaces: set[str]) -> frozenset[str]:
    """Return the characters that Python's expressions classify differently.

    Args:
        letters: all letters and numbers of the tokenizer.
        spaces: all white space of the tokenizer.
    """
    every = _every_character()
    odd = letters.symmetric_difference(re.findall(r"[^\W_]", every))
    return frozenset(odd | spaces.symmetric_difference(re.findall(r"\s", every)))


def _every_character() -> str:
    # Without surrogates; as one string, because a million strings of one character each would
    # take most of a job's memory.
    codes = array("I", chain(range(0xD800), range(0xE000, sys.maxunicode + 1)))
    return codes.tobytes().decode(f"utf-32-{sys.byteorder[0]}e")


def _around_special(tokenizer: Any, batched: Encode, code: int) -> Encode:
    """Use PaddleNLP for texts with special tokens, which it handles."""
    special = [token for token in {*tokenizer.unique_no_split_tokens} if token]

    def encode(texts: Sequence[str]) -> list[bytes]:
        plain = [not any(token in text for token in special) for text in texts]
        rest = iter(
            batched([text for text, is_plain in zip(texts, plain, strict=True) if is_plain])
        )
        return [
            next(rest) if is_plain else stored(ids_of_one(tokenizer, text), code)
            for text, is_plain in zip(texts, plain, strict=True)
        ]

    return encode

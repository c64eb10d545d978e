"""From texts to tokens, a batch at a time: the ids are those of PaddleNLP's own tokenizer.

Upstream calls ``tokenize`` and ``convert_tokens_to_ids`` for each document. Where the
tokenizer stands on the tokenizers library or on sentencepiece, those give the same ids for
a whole batch in native code; a few texts that are hard to split are compared when a job
starts, and where one differs the job is as slow as upstream and as right.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from entrypoints.console import warn

__all__ = ["Batch", "Encode", "encoder", "ids_of_one", "type_code"]

Encode = Callable[[Sequence[str]], "list[list[int]]"]
_ARRAYS = {8: "H", 4: "i"}

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
    """Tokens of documents, as they are stored.

    Args:
        code: the type of a token (``paddle_stacks.jobs.corpus.ITEMS``).
    """

    def __init__(self, code: int) -> None:
        self._tokens = array(_ARRAYS[code])
        self._sizes = array("i")

    def add(self, ids: Sequence[int]) -> None:
        """Add a document.

        Raises:
            OverflowError: an id does not fit the type.
        """
        self._tokens.extend(ids)
        self._sizes.append(len(ids))

    @property
    def tokens(self) -> bytes:
        """All tokens."""
        return self._tokens.tobytes()

    @property
    def sizes(self) -> bytes:
        """The number of tokens of each document, 4 bytes each."""
        return self._sizes.tobytes()


def type_code(tokenizer: Any) -> int:
    """Return the type in which a tokenizer's ids are stored, by upstream's rule."""
    return 8 if tokenizer.vocab_size < 2**16 - 1 else 4


def ids_of_one(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text as upstream's script makes them."""
    ids: list[int] = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    return ids


def encoder(tokenizer: Any) -> Encode:
    """Return the fastest way to the tokenizer's ids."""
    slow: Encode = lambda texts: [ids_of_one(tokenizer, text) for text in texts]  # noqa: E731
    batched = _batched(tokenizer)
    if batched is None:
        return slow
    if batched(_HARD) != slow(_HARD):
        warn("the batch tokenizer differs from PaddleNLP's, which is used: it is slower")
        return slow
    return batched


def _batched(tokenizer: Any) -> Encode | None:
    from paddlenlp.transformers import LlamaTokenizer, PretrainedTokenizerFast, Qwen2Tokenizer

    if isinstance(tokenizer, PretrainedTokenizerFast):
        return _by_rust(tokenizer.backend_tokenizer)
    if getattr(tokenizer, "do_lower_case", False) or getattr(
        tokenizer, "split_special_tokens", False
    ):
        return None
    # Subclasses may split in ways of their own.
    if type(tokenizer) is LlamaTokenizer:
        pieces = tokenizer.sp_model
        return _around_special(
            tokenizer, lambda texts: pieces.encode(texts, out_type=int, num_threads=1)
        )
    if type(tokenizer) is Qwen2Tokenizer:
        return _around_special(tokenizer, _by_rust(_byte_level(tokenizer)))
    return None


def _by_rust(backend: Any) -> Encode:
    backend.no_truncation()
    backend.no_padding()
    return lambda texts: [
        found.ids for found in backend.encode_batch_fast(list(texts), add_special_tokens=False)
    ]


def _byte_level(tokenizer: Any) -> Any:
    """Return what Qwen2Tokenizer does in Python, in the tokenizers library's terms."""
    from paddlenlp.transformers.qwen2.tokenizer import PRETOKENIZE_REGEX
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    made = Tokenizer(models.BPE(vocab=tokenizer.encoder, merges=merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def _around_special(tokenizer: Any, batched: Encode) -> Encode:
    """Leave the texts that hold a special token to PaddleNLP, which splits them at it."""
    special = [token for token in {*tokenizer.unique_no_split_tokens} if token]

    def encode(texts: Sequence[str]) -> list[list[int]]:
        plain = [not any(token in text for token in special) for text in texts]
        rest = iter(
            batched([text for text, is_plain in zip(texts, plain, strict=True) if is_plain])
        )
        return [
            next(rest) if is_plain else ids_of_one(tokenizer, text)
            for text, is_plain in zip(texts, plain, strict=True)
        ]

    return encode

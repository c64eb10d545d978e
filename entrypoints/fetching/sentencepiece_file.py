"""A sentencepiece model of a vocabulary, encoded by hand.

The message is small and its definition does not change (``sentencepiece_model.proto``
of google/sentencepiece), whereas the encoder that the ``sentencepiece`` package brings
insists on a newer protobuf than PaddleNLP runs with.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Vocabulary", "encode"]

_BPE = 2  # TrainerSpec.ModelType
_VARINT, _BYTES, _FIXED32 = 0, 2, 5  # protobuf's wire types


@dataclass(frozen=True)
class Vocabulary:
    """A byte-pair vocabulary.

    Args:
        pieces: the tokens, in the order of their ids.
        scores: of the tokens.
        types: of the tokens, in sentencepiece's numbers: 1 normal, 2 unknown,
            3 control, 4 user-defined, 5 unused, 6 byte.
        unknown: the id of what is in no piece.
        begin: the id that begins a text.
        end: the id that ends it.
        dummy_prefix: whether a text is taken as if a space stood before it.
    """

    pieces: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    unknown: int
    begin: int
    end: int
    dummy_prefix: bool


def encode(vocabulary: Vocabulary) -> bytes:
    """Return the serialized ``ModelProto``; bytes stand in for what no piece covers."""
    pieces = b"".join(
        _bytes(1, _text(1, piece) + _float(2, score) + _int(3, kind))
        for piece, score, kind in zip(
            vocabulary.pieces, vocabulary.scores, vocabulary.types, strict=True
        )
    )
    ids = {40: vocabulary.unknown, 41: vocabulary.begin, 42: vocabulary.end}
    trainer = _int(3, _BPE) + _int(4, len(vocabulary.pieces)) + _int(35, True)
    trainer += b"".join(_int(field, number) for field, number in ids.items()) + _int(43, -1)
    # The names of the three, in the fields 45 to 47.
    trainer += b"".join(_text(f + 5, vocabulary.pieces[number]) for f, number in ids.items())
    normalizer = _text(1, "identity") + _int(3, vocabulary.dummy_prefix)
    normalizer += _int(4, False) + _int(5, True)  # keep white space, write it as "▁"
    return pieces + _bytes(2, trainer) + _bytes(3, normalizer)


def _varint(number: int) -> bytes:
    number &= 2**64 - 1  # a negative number is its two's complement
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _int(field: int, number: int) -> bytes:
    return _key(field, _VARINT) + _varint(number)


def _float(field: int, number: float) -> bytes:
    return _key(field, _FIXED32) + struct.pack("<f", number)


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())

"""Encoding and decoding of sentencepiece models.

The message is small and stable (``sentencepiece_model.proto`` of google/sentencepiece), and the
encoder of the ``sentencepiece`` package requires a newer protobuf than PaddleNLP supports.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import RequestError

__all__ = ["Vocabulary", "encode", "pieces", "vocabulary"]

_BPE = 2  # TrainerSpec.ModelType
_NORMAL = 1  # SentencePiece.Type
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


@dataclass(frozen=True)
class Vocabulary:
    """A byte-pair vocabulary.

    Args:
        pieces: the tokens, in the order of their IDs.
        scores: of the tokens.
        types: of the tokens, as numbers of sentencepiece: 1 normal, 2 unknown,
            3 control, 4 user-defined, 5 unused, 6 byte.
        unknown: the ID for unknown text.
        begin: the ID of the begin token.
        end: the ID of the end token.
        dummy_prefix: whether a space is added before a text.
    """

    pieces: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    unknown: int
    begin: int
    end: int
    dummy_prefix: bool


def encode(vocabulary: Vocabulary) -> bytes:
    """Return the serialized ``ModelProto`` with byte fallback."""
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


def pieces(path: Path) -> list[str]:
    """Return the pieces of a sentencepiece model, in the order of their IDs.

    Raises:
        RequestError: it is not a sentencepiece model.
    """
    try:
        return [
            next(content.decode() for field, content in _fields(message) if field == 1)
            for field, message in _fields(path.read_bytes())
            if field == 1
        ] or _no_pieces()
    except (ValueError, StopIteration, IndexError) as error:
        raise RequestError(
            f"not a sentencepiece model: {error or type(error).__name__}",
            where=str(path),
            remedy="get the file again from the model's source",
        ) from None


def vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a sentencepiece model.

    Raises:
        RequestError: it is not such a model.
    """
    names = pieces(path)
    try:
        top = list(_fields(path.read_bytes()))
        scores, types = [], []
        for message in (content for field, content in top if field == 1):
            fields = dict(_fields(message))
            scores.append(struct.unpack("<f", fields[2])[0] if 2 in fields else 0.0)
            types.append(_read_varint(fields[3], 0)[0] if 3 in fields else _NORMAL)
        trainer = dict(pair for field, content in top if field == 2 for pair in _fields(content))
        normalizer = dict(pair for field, content in top if field == 3 for pair in _fields(content))
        unknown, begin, end = (
            _read_varint(trainer[field], 0)[0] if field in trainer else default
            for field, default in ((40, 0), (41, 1), (42, 2))
        )
        prefix = _read_varint(normalizer[3], 0)[0] if 3 in normalizer else 1
    except (ValueError, IndexError, struct.error) as error:
        raise RequestError(
            f"it is not a sentencepiece model: {error}",
            where=str(path),
            remedy="get the file again from the model's source",
        ) from None
    return Vocabulary(names, scores, types, unknown, begin, end, bool(prefix))


def _no_pieces() -> list[str]:
    raise ValueError("it has no pieces")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of a message's fields; of a varint as it is encoded."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        size = {_FIXED32: 4, _FIXED64: 8}.get(key & 7, 0)
        if key & 7 == _VARINT:
            size = _read_varint(message, at)[1] - at
        elif key & 7 == _BYTES:
            size, at = _read_varint(message, at)
        elif not size:
            raise ValueError(f"unsupported wire type {key & 7}")
        if at + size > len(message):
            raise ValueError("it is truncated")
        yield key >> 3, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            return number, at


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

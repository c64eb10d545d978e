"""A request's body as JSON, in bounded time and memory.

A body of 4 MiB can hold two million values, each of which costs a Python object and, where it
is wrong, an error. So values are counted before anything is built from them: counting is a
handful of passes over the bytes in C.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from entrypoints.serving.errors import ApiError

__all__ = ["MAX_VALUES", "load_json"]

MAX_VALUES = 2**18
"""Values in a body. The tokens of 128 prompts of 2048 tokens are as many."""

_SEPARATORS = (b",", b"[", b"{")  # at least one of them stands before every value but the first


def load_json(body: bytes) -> Any:
    """Return the value of a body.

    Raises:
        ApiError: 400, the body is empty, is not JSON, or holds more than :data:`MAX_VALUES`.
    """
    if not body:
        raise ApiError(400, "the body is empty: it must be a JSON object")
    _check_values(body)
    try:
        # NaN and infinity pass here, so that the field that has one is named.
        return from_json(body, cache_strings="keys")
    except ValueError as error:
        raise ApiError(400, f"Invalid JSON: {error}") from None


def _check_values(body: bytes) -> None:
    """Check the number of values; text in strings does not count."""
    if _separators(body) <= MAX_VALUES:
        return
    # Pairs of backslashes first: what is left before a quote is an escaped quote.
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Each string is a key or a value, and has two quotes.
    if bare.count(b'"') <= 4 * MAX_VALUES:
        outside = b"".join(bare.split(b'"')[::2])
        if _separators(outside) <= MAX_VALUES:
            return
    raise ApiError(
        400,
        f"the body has too many values: expected at most {MAX_VALUES:,}",
        code="request_too_large",
    )


def _separators(text: bytes) -> int:
    return sum(map(text.count, _SEPARATORS))

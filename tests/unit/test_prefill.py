"""Prefill in chunks: padding on either side, and the size of the chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrypoints.inference.prefill import prefill


class Recorder:
    """Records the arrays that it reads."""

    def __init__(self) -> None:
        self.reads: list[tuple[np.ndarray, np.ndarray]] = []

    def read(self, tokens: np.ndarray, is_token: np.ndarray) -> None:
        self.reads.append((tokens.copy(), is_token.copy()))


def reads(prompts: list[list[int]], *, pad_left: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    decoding: Any = Recorder()
    prefill(decoding, prompts, pad_left=pad_left)
    return decoding.reads


@pytest.mark.parametrize(
    ("pad_left", "rows"),
    [(False, [[1, 2, 3], [4, 0, 0]]), (True, [[1, 2, 3], [0, 0, 4]])],
)
def test_short_prompts_are_padded(pad_left: bool, rows: list[list[int]]) -> None:
    ((tokens, is_token),) = reads([[1, 2, 3], [4]], pad_left=pad_left)
    np.testing.assert_array_equal(tokens, rows)
    np.testing.assert_array_equal(is_token, np.array(rows) > 0)


@pytest.mark.parametrize(("rows", "widths"), [(1, [512, 512, 276]), (2, [256] * 5 + [20])])
def test_chunks_bound_the_tokens_of_all_rows(rows: int, widths: list[int]) -> None:
    prompt = list(range(1, 1301))
    parts = reads([prompt] * rows, pad_left=False)
    assert [tokens.shape for tokens, _ in parts] == [(rows, width) for width in widths]
    np.testing.assert_array_equal(np.hstack([tokens for tokens, _ in parts]), [prompt] * rows)
    assert all(is_token.all() for _, is_token in parts)


def test_more_prompts_than_tokens_of_a_chunk() -> None:
    parts = reads([[1, 2]] * 600, pad_left=True)
    assert [tokens.shape for tokens, _ in parts] == [(600, 1), (600, 1)]

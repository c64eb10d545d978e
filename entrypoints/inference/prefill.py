"""Prefill of prompts that are padded to equal length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entrypoints.inference.protocols import Decoding

__all__ = ["prefill"]

_CHUNK = 512  # tokens of prompts that go through the model at once: bounds memory


def prefill(decoding: Decoding, prompts: Sequence[Sequence[int]], *, pad_left: bool) -> None:
    """Feed prompts to their empty batch in chunks.

    Args:
        decoding: the batch, with a row per prompt.
        prompts: the tokens of each.
        pad_left: whether the padding precedes the tokens instead of following them.
    """
    longest = max(map(len, prompts))
    tokens = np.zeros((len(prompts), longest), dtype=np.int64)
    is_token = np.zeros((len(prompts), longest), dtype=bool)
    for row, prompt in enumerate(prompts):
        begin = longest - len(prompt) if pad_left else 0
        tokens[row, begin : begin + len(prompt)] = prompt
        is_token[row, begin : begin + len(prompt)] = True
    chunk = max(_CHUNK // len(prompts), 1)
    for begin in range(0, longest, chunk):
        decoding.read(tokens[:, begin : begin + chunk], is_token[:, begin : begin + chunk])

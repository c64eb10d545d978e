"""Interfaces of models and batches, independent of the engine and of Paddle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Decoding", "LanguageModel"]


class Decoding(Protocol):
    """A batch of texts during decoding: its KV cache and the current logits.

    Attributes:
        logits: of the next tokens, ``[rows, vocabulary]``.
    """

    logits: npt.NDArray[np.float32]

    @property
    def columns(self) -> int:
        """Tokens of the longest text; every text uses this much of the cache."""

    def read(self, tokens: npt.NDArray[np.int64], is_token: npt.NDArray[np.bool_]) -> None:
        """Feed the next tokens, ``[rows, new]``; positions without ``is_token`` are padding."""

    def read_all(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Feed the next tokens, ``[rows, new]``, and return the logits after each of them.

        Returns:
            ``[rows x new, vocabulary]``.
        """

    def step(self, tokens: Sequence[int]) -> None:
        """Feed the sampled token of every text."""

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these texts; a row that is repeated is duplicated."""

    def join(self, other: Any) -> None:
        """Append the texts of another batch of the same model."""


class LanguageModel(Protocol):
    """A model that decodes step by step."""

    def begin(self, rows: int) -> Decoding:
        """Return an empty batch with this number of texts."""

    def start(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        """Prefill prompts and return their batch."""

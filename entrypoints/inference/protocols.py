"""What a model and a batch of texts can do, whatever computes; it needs no Paddle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Decoding", "LanguageModel"]


class Decoding(Protocol):
    """A batch of texts in the making: what the model has read, and what it makes of it.

    Attributes:
        logits: of the next token, ``[rows, vocabulary]``.
    """

    logits: npt.NDArray[np.float32]

    @property
    def columns(self) -> int:
        """Tokens of the longest text; every text takes the memory of so many."""

    def read(self, tokens: npt.NDArray[np.int64], is_token: npt.NDArray[np.bool_]) -> None:
        """Give the model the next tokens, ``[rows, new]``; not ``is_token`` are paddings."""

    def read_all(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Give the model the next tokens, ``[rows, new]``, and return the logits behind each.

        Returns:
            ``[rows x new, vocabulary]``.
        """

    def step(self, tokens: Sequence[int]) -> None:
        """Give the model the token that was chosen for every text."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these texts only; one that is named more than once is continued as often."""

    def join(self, other: Any) -> None:
        """Go on with the texts of another decoding of the model as well, behind these."""


class LanguageModel(Protocol):
    """A model that is called a step at a time."""

    def begin(self, rows: int) -> Decoding:
        """Return a decoding of so many texts, of which nothing has been read yet."""

    def start(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        """Read prompts and return their decoding."""

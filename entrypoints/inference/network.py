"""Decoding with PaddleNLP's own network: what runs on a card, and what is no Llama."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

__all__ = ["NetworkDecoding", "NetworkModel"]

_CHUNK = 512  # tokens of prompts that go through the model at once: bounds memory
_TOKENS = 1  # the axis of PaddleNLP's keys and values that counts the tokens


class NetworkModel:
    """PaddleNLP's network, called a step at a time.

    Args:
        network: a ``…ForCausalLM``.
    """

    def __init__(self, network: Any) -> None:
        self._network = network

    def begin(self, rows: int) -> NetworkDecoding:
        """Return a decoding of so many texts, of which nothing has been read yet."""
        return NetworkDecoding(self._network, rows)

    def start(self, prompts: Sequence[Sequence[int]]) -> NetworkDecoding:
        """Read prompts, padded on the left to one length, and return their decoding."""
        longest = max(map(len, prompts))
        tokens = np.zeros((len(prompts), longest), dtype=np.int64)
        is_token = np.zeros((len(prompts), longest), dtype=bool)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = prompt
            is_token[row, longest - len(prompt) :] = True
        decoding = self.begin(len(prompts))
        chunk = max(_CHUNK // len(prompts), 1)
        for begin in range(0, longest, chunk):
            decoding.read(tokens[:, begin : begin + chunk], is_token[:, begin : begin + chunk])
        return decoding


class NetworkDecoding:
    """A batch of texts in the making: what the model has read, and what it makes of it.

    Args:
        network: a ``…ForCausalLM``.
        rows: texts in the batch.

    Attributes:
        logits: of the next token, ``[batch, vocabulary]``.
    """

    logits: npt.NDArray[np.float32]

    def __init__(self, network: Any, rows: int) -> None:
        self._network = network
        self._past: Any = None
        self._known = np.zeros((rows, 0), dtype=bool)

    def read(self, tokens: npt.NDArray[np.int64], is_token: npt.NDArray[np.bool_]) -> None:
        """Give the model the next tokens.

        Args:
            tokens: ``[batch, new]``.
            is_token: ``[batch, new]``, false where a token is padding.
        """
        # Nothing is copied where it is float32 already.
        self.logits = self._forward(tokens, is_token)[:, -1].numpy().astype(np.float32, copy=False)

    def read_all(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Give the model the next tokens, and return the logits behind each.

        Args:
            tokens: ``[batch, new]``.

        Returns:
            ``[batch x new, vocabulary]``.
        """
        logits = self._forward(tokens, np.ones_like(tokens, dtype=bool)).numpy()
        logits = logits.astype(np.float32, copy=False)
        self.logits = np.ascontiguousarray(logits[:, -1])
        rows: npt.NDArray[np.float32] = logits.reshape(-1, logits.shape[-1])
        return rows

    def _forward(self, tokens: npt.NDArray[np.int64], is_token: npt.NDArray[np.bool_]) -> Any:
        """Run the network on the next tokens, and return its logits, ``[batch, new, …]``."""
        past, new = self._known.shape[1], tokens.shape[1]
        self._known = np.concatenate([self._known, is_token], axis=1)
        positions = np.maximum(np.cumsum(self._known, axis=1) - 1, 0)[:, past:]
        # Of four dimensions, so that PaddleNLP takes it as it is.
        before = np.arange(past + new) <= np.arange(past, past + new)[:, None]
        visible = self._known[:, None, None, :] & before
        with paddle.no_grad():
            output = self._network(
                input_ids=paddle.to_tensor(tokens),
                position_ids=paddle.to_tensor(positions),
                attention_mask=paddle.to_tensor(visible),
                past_key_values=self._past,
                use_cache=True,
                return_dict=True,
            )
        self._past = output.past_key_values
        return output.logits

    def step(self, tokens: Sequence[int]) -> None:
        """Give the model the token that was chosen for every text."""
        column = np.array(tokens, dtype=np.int64)[:, None]
        self.read(column, np.ones_like(column, dtype=bool))

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these texts only; one that is named more than once is continued as often."""
        index = paddle.to_tensor(np.array(rows, dtype=np.int64))
        self._past = [
            tuple(paddle.index_select(part, index, axis=0) for part in layer)
            for layer in self._past
        ]
        self._known = self._known[list(rows)]
        self.logits = self.logits[list(rows)]
        self._trim()

    def join(self, other: NetworkDecoding) -> None:
        """Go on with the texts of another decoding as well, which come behind these.

        The shorter ones are padded on the left; positions and masks follow from what is
        known, so that no text notices the others.
        """
        longest = max(self.columns, other.columns)
        self._past = [
            tuple(
                paddle.concat([self._padded(mine, longest), self._padded(its, longest)], axis=0)
                for mine, its in zip(layer, added, strict=True)
            )
            for layer, added in zip(self._past, other._past, strict=True)
        ]
        masks = [
            np.pad(part._known, ((0, 0), (longest - part.columns, 0))) for part in (self, other)
        ]
        self._known = np.concatenate(masks)
        self.logits = np.concatenate([self.logits, other.logits])

    @property
    def columns(self) -> int:
        """Tokens of the longest text; every text takes the memory of so many."""
        return int(self._known.shape[1])

    def _padded(self, part: Any, length: int) -> Any:
        missing = length - part.shape[_TOKENS]
        if not missing:
            return part
        shape = list(part.shape)
        shape[_TOKENS] = missing
        return paddle.concat([paddle.zeros(shape, part.dtype), part], axis=_TOKENS)

    def _trim(self) -> None:
        """Drop the columns that are padding for every text that is left."""
        unused = int(self._known.any(axis=0).argmax())
        if not unused:
            return
        axis, end = _TOKENS, self.columns
        self._past = [
            tuple(paddle.slice(part, [axis], [unused], [end]) for part in layer)
            for layer in self._past
        ]
        self._known = self._known[:, unused:]

"""Decoding with PaddleNLP's own network: for devices, and for models other than Llama."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from entrypoints.inference.prefill import prefill

__all__ = ["NetworkDecoding", "NetworkModel"]

_TOKENS = 1  # the axis of PaddleNLP's keys and values that counts the tokens


class NetworkModel:
    """PaddleNLP's network with step-by-step decoding.

    Args:
        network: a ``…ForCausalLM``.
    """

    def __init__(self, network: Any) -> None:
        self._network = network

    def begin(self, rows: int) -> NetworkDecoding:
        """Return an empty batch with this number of texts."""
        return NetworkDecoding(self._network, rows)

    def start(self, prompts: Sequence[Sequence[int]]) -> NetworkDecoding:
        """Prefill prompts, padded on the left to equal length, and return their batch."""
        decoding = self.begin(len(prompts))
        prefill(decoding, prompts, pad_left=True)
        return decoding


class NetworkDecoding:
    """A batch of texts during decoding: its KV cache and the current logits.

    Args:
        network: a ``…ForCausalLM``.
        rows: texts in the batch.

    Attributes:
        logits: of the next tokens, ``[batch, vocabulary]``.
    """

    logits: npt.NDArray[np.float32]

    def __init__(self, network: Any, rows: int) -> None:
        self._network = network
        self._past: Any = None
        self._is_token = np.zeros((rows, 0), dtype=bool)

    def read(self, tokens: npt.NDArray[np.int64], is_token: npt.NDArray[np.bool_]) -> None:
        """Feed the next tokens.

        Args:
            tokens: ``[batch, new]``.
            is_token: ``[batch, new]``, false where a token is padding.
        """
        # No copy if it is float32 already.
        self.logits = self._forward(tokens, is_token)[:, -1].numpy().astype(np.float32, copy=False)

    def read_all(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Feed the next tokens, and return the logits after each of them.

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
        past, new = self._is_token.shape[1], tokens.shape[1]
        self._is_token = np.concatenate([self._is_token, is_token], axis=1)
        positions = np.maximum(np.cumsum(self._is_token, axis=1) - 1, 0)[:, past:]
        # Four-dimensional, so that PaddleNLP uses it unchanged.
        before = np.arange(past + new) <= np.arange(past, past + new)[:, None]
        visible = self._is_token[:, None, None, :] & before
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
        """Feed the sampled token of every text."""
        column = np.array(tokens, dtype=np.int64)[:, None]
        self.read(column, np.ones_like(column, dtype=bool))

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these texts; a row that is repeated is duplicated."""
        index = paddle.to_tensor(np.array(rows, dtype=np.int64))
        self._past = [
            tuple(paddle.index_select(part, index, axis=0) for part in layer)
            for layer in self._past
        ]
        self._is_token = self._is_token[list(rows)]
        self.logits = self.logits[list(rows)]
        self._trim()

    def join(self, other: NetworkDecoding) -> None:
        """Append the texts of another batch.

        The shorter ones are padded on the left; positions and masks exclude the padding.
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
            np.pad(part._is_token, ((0, 0), (longest - part.columns, 0))) for part in (self, other)
        ]
        self._is_token = np.concatenate(masks)
        self.logits = np.concatenate([self.logits, other.logits])

    @property
    def columns(self) -> int:
        """Tokens of the longest text; every text uses this much of the cache."""
        return int(self._is_token.shape[1])

    def _padded(self, part: Any, length: int) -> Any:
        missing = length - part.shape[_TOKENS]
        if not missing:
            return part
        shape = list(part.shape)
        shape[_TOKENS] = missing
        return paddle.concat([paddle.zeros(shape, part.dtype), part], axis=_TOKENS)

    def _trim(self) -> None:
        """Remove the columns that are padding for all remaining texts."""
        unused = int(self._is_token.any(axis=0).argmax())
        if not unused:
            return
        axis, end = _TOKENS, self.columns
        self._past = [
            tuple(paddle.slice(part, [axis], [unused], [end]) for part in layer)
            for layer in self._past
        ]
        self._is_token = self._is_token[:, unused:]

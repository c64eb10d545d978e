"""Rotary embeddings in the layout of block attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

__all__ = ["rotary_embedding"]


def rotary_embedding(length: int, head_dim: int, theta: float) -> Any:
    """Return the cosines and sines of all positions, float32 ``[2, 1, length, 1, head_dim]``.

    Args:
        length: the number of positions.
        head_dim: the width of a head.
        theta: the base of the frequencies.
    """
    steps = np.arange(0, head_dim, 2, dtype="float32") / head_dim
    angles = np.outer(np.arange(length, dtype="float32"), np.float32(theta) ** -steps)
    angles = np.concatenate([angles, angles], axis=1)
    table = np.stack([np.cos(angles), np.sin(angles)]).astype("float32")
    return paddle.to_tensor(table.reshape(2, 1, length, 1, head_dim))

"""Bytes per parameter in training, for any model: weight, gradient, optimizer.

Source: Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, section 3.1: 2 + 2 + 12 bytes in
half precision with float32 master weights, 4 + 4 + 8 in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from paddle_stacks.jobs.layout import Layout

__all__ = ["States", "shares", "states"]


@dataclass(frozen=True)
class States:
    """Bytes per parameter, before sharding.

    Args:
        weight: the weight.
        gradient: its gradient.
        master: AdamW's float32 copy of a half-precision weight.
        moments: AdamW's two moments.
    """

    weight: int
    gradient: int
    master: int
    moments: int

    def per_rank(self, layout: Layout, *, trained: bool) -> float:
        """Return the bytes per parameter on a rank, after sharding.

        Args:
            layout: the parallel layout.
            trained: whether the parameter has a gradient and optimizer state.
        """
        weight, gradient, optimizer = shares(layout)
        size = self.weight / weight
        if trained:
            size += self.gradient / gradient + (self.master + self.moments) / optimizer
        return size


def states(*, half: bool, master_weights: bool = True, master_gradients: bool = False) -> States:
    """Return the bytes per parameter with AdamW.

    Args:
        half: whether weights are in half precision.
        master_weights: whether AdamW keeps float32 copies of half-precision weights.
        master_gradients: whether gradients are in float32 anyway (``amp_master_grad``).
    """
    return States(
        weight=2 if half else 4,
        gradient=2 if half and not master_gradients else 4,
        master=4 if half and master_weights else 0,
        moments=4 if half and not master_weights else 8,
    )


def shares(layout: Layout) -> tuple[int, int, int]:
    """Return the number of ranks that share weights, gradients and optimizer state."""
    weight, gradient, optimizer = (
        layout.sharding if layout.stage >= stage else 1 for stage in (3, 2, 1)
    )
    return weight, gradient, optimizer

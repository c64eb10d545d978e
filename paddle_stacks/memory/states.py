"""What training holds of every parameter, whatever the model: weight, gradient, optimizer.

Source: Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, section 3.1: 2 + 2 + 12 bytes in
half precision with float32 master weights, 4 + 4 + 8 in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from paddle_stacks.jobs.layout import Layout

__all__ = ["States", "shares", "states"]


@dataclass(frozen=True)
class States:
    """Bytes for each parameter on one rank of those that share it.

    Args:
        weight: the weight itself.
        gradient: its gradient.
        master: the float32 copy that AdamW keeps of a weight in half precision.
        moments: AdamW's two.
    """

    weight: int
    gradient: int
    master: int
    moments: int

    def on_each(self, layout: Layout, *, trained: bool) -> float:
        """Return the bytes that a rank of the layout holds for each of its parameters.

        Args:
            layout: who shares what.
            trained: whether there is more than the weight.
        """
        weight, gradient, optimizer = shares(layout)
        held = self.weight / weight
        if trained:
            held += self.gradient / gradient + (self.master + self.moments) / optimizer
        return held


def states(*, half: bool, master_weights: bool = True, master_gradients: bool = False) -> States:
    """Return what AdamW needs.

    Args:
        half: whether weights are in half precision.
        master_weights: whether it keeps those in float32 beside them.
        master_gradients: whether gradients are in float32 all the same (``amp_master_grad``).
    """
    return States(
        weight=2 if half else 4,
        gradient=2 if half and not master_gradients else 4,
        master=4 if half and master_weights else 0,
        moments=4 if half and not master_weights else 8,
    )


def shares(layout: Layout) -> tuple[int, int, int]:
    """Return how many ranks share weights, gradients and the optimizer's state."""
    weight, gradient, optimizer = (
        layout.sharding if layout.stage >= stage else 1 for stage in (3, 2, 1)
    )
    return weight, gradient, optimizer

"""A pretraining whose parts are there and checked."""

from __future__ import annotations

from dataclasses import dataclass

from entrypoints.training.request import Training

__all__ = ["Request"]


@dataclass(frozen=True, kw_only=True)
class Request(Training):
    """A pretraining; the model's folder has no weights where it begins from scratch.

    Args:
        corpus: weights and prefixes in turn, as upstream's ``input_dir`` has them; one
            prefix alone has no weight.
        peak_tflops: what a process's device can compute in a second, for the share that is
            used; None where nobody has said it.
    """

    corpus: tuple[str, ...]
    peak_tflops: float | None

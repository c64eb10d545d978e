"""Checked requests for pretraining."""

from __future__ import annotations

from dataclasses import dataclass

from entrypoints.training.request import TrainingRequest

__all__ = ["Request"]


@dataclass(frozen=True, kw_only=True)
class Request(TrainingRequest):
    """A request for pretraining; from scratch, the model's folder has no weights.

    Args:
        corpus: alternating weights and prefixes, as in upstream's ``input_dir``; or a
            single prefix.
        peak_tflops: the peak performance of a process's device, for the utilization; or None.
    """

    corpus: tuple[str, ...]
    peak_tflops: float | None

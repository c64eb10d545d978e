"""Observers of activations during calibration.

An observer gets the input of a product chunk by chunk and the ends of rows and steps, and
returns its result at the end. It stores a few numbers per channel, independent of the length of
the text. The methods are those of upstream's ``llm/experimental/observer`` and of PaddleSlim's
``Shift`` and ``Smooth``, but padding is not counted.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Largest", "LargestOfChannels", "LargestOfHeads", "Middle", "Observer"]

Floats = npt.NDArray[np.float32]

_BETA = 0.98  # of upstream's EMASampler


class Observer(Protocol):
    """Observes the input of one product."""

    def see(self, values: Floats) -> None:
        """Observe a chunk, ``[tokens, channels]``; ``[heads, tokens, head_dim]`` of a cache."""

    def end_row(self) -> None:
        """Handle the end of a row."""
        return

    def end_step(self) -> None:
        """Handle the end of a step."""
        return

    def result(self) -> Any:
        """Return the result."""


class Largest(Observer):
    """The scale of an activation, one for all channels.

    Args:
        average: upstream's ``avg``: the mean over steps of the mean over a step's rows of
            the largest absolute value; else ``abs_max``, the largest of all.
    """

    def __init__(self, *, average: bool) -> None:
        self._average = average
        self._row = 0.0
        self._rows: list[float] = []
        self._steps: list[float] = []

    def see(self, values: Floats) -> None:
        """Observe a chunk of a row."""
        self._row = max(self._row, float(np.abs(values).max()))

    def end_row(self) -> None:
        """Record the row's largest value."""
        self._rows.append(self._row)
        self._row = 0.0

    def end_step(self) -> None:
        """Record the step's mean."""
        self._steps.append(float(np.mean(self._rows) if self._average else max(self._rows)))
        self._rows.clear()

    def result(self) -> float:
        """Return the scale, above zero."""
        largest = float(np.mean(self._steps) if self._average else max(self._steps))
        return max(largest, 1e-7)  # upstream's minimum


class LargestOfHeads(Observer):
    """The scales of a cache, one for each head.

    Args:
        average: upstream's ``avg_headwise``: the mean over steps of a step's largest
            absolute value; else ``abs_max_headwise``, the largest of all.
    """

    def __init__(self, *, average: bool) -> None:
        self._average = average
        self._step: Floats | None = None
        self._steps: list[Floats] = []

    def see(self, values: Floats) -> None:
        """Observe a chunk of a row."""
        largest = np.abs(values).max(axis=(1, 2))
        self._step = largest if self._step is None else np.maximum(self._step, largest)

    def end_step(self) -> None:
        """Record the step's largest value."""
        if self._step is not None:
            self._steps.append(np.where(self._step == 0, np.float32(1e-8), self._step))
        self._step = None

    def result(self) -> Floats:
        """Return the scales, ``[heads]``."""
        reduced = np.mean if self._average else np.max
        return np.asarray(reduced(self._steps, axis=0), dtype=np.float32)


class LargestOfChannels(Observer):
    """The largest absolute value of each channel, which smoothing needs."""

    def __init__(self) -> None:
        self._largest: Floats | None = None

    def see(self, values: Floats) -> None:
        """Observe a chunk of a row."""
        largest = np.abs(values).max(axis=0)
        self._largest = largest if self._largest is None else np.maximum(self._largest, largest)

    def result(self) -> Floats:
        """Return them, ``[channels]``."""
        assert self._largest is not None
        return self._largest


class Middle(Observer):
    """The middle of each channel, which shifting subtracts.

    Args:
        average: upstream's sampler ``ema``: the exponential moving average of the steps'
            means, with the bias of its beginning corrected as in Adam
            (arXiv:1412.6980; upstream divides by the correction of one step less, and its
            second sample is a fiftieth of a mean); else the middle between the least and
            the largest value, halved with each step's (PaddleSlim takes a step once for
            each projection that shares the input).
    """

    def __init__(self, *, average: bool) -> None:
        self._average = average
        self._count, self._sum = 0, np.float64(0)
        self._least: Any = np.inf
        self._most: Any = -np.inf
        self._found: Any = None
        self._steps = 0

    def see(self, values: Floats) -> None:
        """Observe a chunk of a row."""
        self._count += len(values)
        self._sum = self._sum + values.sum(axis=0, dtype=np.float64)
        self._least = np.minimum(self._least, values.min(axis=0))
        self._most = np.maximum(self._most, values.max(axis=0))

    def end_step(self) -> None:
        """Update the average."""
        if self._average:
            before = 0 if self._found is None else self._found
            self._found = _BETA * before + (1 - _BETA) * self._sum / self._count
        else:
            middle = (self._least + self._most) / 2
            self._found = middle if self._found is None else (self._found + middle) / 2
        self._steps += 1
        self._count, self._sum = 0, np.float64(0)
        self._least, self._most = np.inf, -np.inf

    def result(self) -> Floats:
        """Return the middles, ``[channels]``."""
        whole = 1 - _BETA**self._steps if self._average else 1.0
        return np.asarray(self._found / whole, dtype=np.float32)

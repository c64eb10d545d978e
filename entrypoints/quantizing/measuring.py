"""What quantizing costs: perplexity, tokens that are another, errors of each product."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.inference.decoding import Model
from entrypoints.models import int8
from entrypoints.quantizing.calibration import Calibration, Scales, pieces, split
from entrypoints.quantizing.text import Rows
from entrypoints.runtime.progress import in_units
from paddle_stacks.jobs.quantizing import GROUPS, Method

__all__ = ["Measured", "agreement", "errors_of_products", "measure"]

NEW_TOKENS = 32
_PROMPT = 24
_PROMPTS = 8

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """How well a model predicts text.

    Args:
        loss: the mean negative log-likelihood of a token, in nats.
        likeliest: the token that it would have chosen at each place, ``[tokens]``.
        greedy: its greedy continuations of the rows' beginnings.
    """

    loss: float
    likeliest: npt.NDArray[np.int64]
    greedy: tuple[tuple[int, ...], ...]

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(self.loss)


def measure(label: str, model: Model, rows: Rows) -> Measured:
    """Return how well a model predicts each token of each row behind the first.

    Args:
        label: the work, for the reader.
        model: the model.
        rows: the text.
    """
    total, likeliest = 0.0, []
    progress = in_units(label, len(rows.rows), "rows")
    for number, row in enumerate(rows.rows, 1):
        decoding = model.begin(1)
        at = 1
        for piece in pieces(row[:-1]):
            logits = decoding.read_all(piece)
            targets = np.array(row[at : at + len(logits)])
            at += len(logits)
            total += float(_losses(logits, targets).sum())
            likeliest.append(logits.argmax(axis=1))
        progress(number)
    chosen = np.concatenate(likeliest)
    return Measured(total / len(chosen), chosen, _greedy(model, rows))


def _losses(logits: Floats, targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    highest = logits.max(axis=1)
    sums = np.exp(logits - highest[:, None]).sum(axis=1, dtype=np.float64)
    losses: npt.NDArray[np.float64] = np.log(sums)
    losses += highest - logits[np.arange(len(targets)), targets]
    return losses


def _greedy(model: Model, rows: Rows) -> tuple[tuple[int, ...], ...]:
    prompts = [row[:_PROMPT] for row in rows.rows[:_PROMPTS]]
    decoding = model.start(prompts)
    steps: list[Any] = []
    for _ in range(NEW_TOKENS):
        steps.append(decoding.logits.argmax(axis=1))
        decoding.step(steps[-1].tolist())
    return tuple(tuple(int(token) for token in row) for row in np.stack(steps, axis=1))


def agreement(before: Measured, after: Measured) -> dict[str, Any]:
    """Return how often two models choose the same token."""
    same = [
        next((at for at, (a, b) in enumerate(zip(one, two, strict=True)) if a != b), NEW_TOKENS)
        for one, two in zip(before.greedy, after.greedy, strict=True)
    ]
    return {
        "same_next_token": float((before.likeliest == after.likeliest).mean()),
        "greedy": {
            "prompts": len(same),
            "new_tokens": NEW_TOKENS,
            "same_until": same,
            "whole": sum(length == NEW_TOKENS for length in same),
        },
    }


def errors_of_products(
    calibration: Calibration,
    method: Method,
    scales: Scales,
    weight_scales: Mapping[str, Floats],
    row: Sequence[int],
) -> list[dict[str, Any]]:
    """Return what a quantized projection makes wrong of what the float model gives it.

    Args:
        calibration: the model, before it is quantized.
        method: how it is.
        scales: of activations.
        weight_scales: of weights, by their names.
        row: a text's tokens.

    Returns:
        For each projection ``largest_error``, that of any output; ``relative_error``,
        the norm of all errors by that of all outputs; ``relative_error_of_weight``.
    """
    sums: dict[str, _Errors] = {}

    def see(name: str, values: Floats) -> None:
        layer, first = split(name)
        entering = values
        if name in scales.activations:
            entering = int8.fake_quantized(values, scales.activations[name])
        for member in GROUPS.get(first, ()):
            product = f"{layer}.{member}"
            weight_name = f"{product}.weight"
            if weight_name not in weight_scales:
                continue
            weight = calibration.weights[weight_name]
            rounded = int8.fake_quantized(weight, weight_scales[weight_name])
            if product not in sums:
                sums[product] = _Errors.of_weight(weight, rounded)
            sums[product].add(values @ weight, entering @ rounded)

    calibration.watched(row, see)
    return [{"name": name, **errors.described()} for name, errors in sums.items()]


@dataclass
class _Errors:
    """Sums over the outputs of a projection, of which only a piece is there at a time."""

    of_the_weight: float
    largest: float = 0.0
    errors: float = 0.0
    outputs: float = 0.0

    @classmethod
    def of_weight(cls, weight: Floats, rounded: Floats) -> _Errors:
        missed = np.linalg.norm(rounded - weight)
        return cls(_ratio(float(missed), float(np.linalg.norm(weight))))

    def add(self, right: Floats, actual: Floats) -> None:
        difference = actual - right
        self.largest = max(self.largest, float(np.abs(difference).max()))
        self.errors += float(np.square(difference, dtype=np.float64).sum())
        self.outputs += float(np.square(right, dtype=np.float64).sum())

    def described(self) -> dict[str, float]:
        return {
            "largest_error": self.largest,
            "relative_error": _ratio(math.sqrt(self.errors), math.sqrt(self.outputs)),
            "relative_error_of_weight": self.of_the_weight,
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0

"""Evaluation of a quantization: perplexity, changed tokens, and errors of products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.inference.decoding import Model
from entrypoints.models import int8
from entrypoints.quantizing.calibration import Calibration, Scales, chunks, split
from entrypoints.quantizing.text import Rows
from entrypoints.runtime.progress import in_units
from paddle_stacks.jobs.quantizing import GROUPS, Method

__all__ = ["Evaluation", "agreement", "errors_of_products", "evaluate"]

NEW_TOKENS = 32
_PROMPT = 24
_PROMPTS = 8

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of a model on text.

    Args:
        loss: the mean negative log-likelihood of a token, in nats.
        predictions: the most probable token at each position, ``[tokens]``.
        greedy: greedy continuations of the beginnings of rows.
    """

    loss: float
    predictions: npt.NDArray[np.int64]
    greedy: tuple[tuple[int, ...], ...]

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(self.loss)


def evaluate(label: str, model: Model, rows: Rows) -> Evaluation:
    """Evaluate a model on all tokens of rows after the first.

    Args:
        label: the name of the work.
        model: the model.
        rows: the text.
    """
    total, predictions = 0.0, []
    progress = in_units(label, len(rows.rows), "rows")
    for number, row in enumerate(rows.rows, 1):
        decoding = model.begin(1)
        at = 1
        for chunk in chunks(row[:-1]):
            logits = decoding.read_all(chunk)
            targets = np.array(row[at : at + len(logits)])
            at += len(logits)
            total += float(_losses(logits, targets).sum())
            predictions.append(logits.argmax(axis=1))
        progress(number)
    chosen = np.concatenate(predictions)
    return Evaluation(total / len(chosen), chosen, _greedy(model, rows))


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


def agreement(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """Return how often two models predict the same token."""
    same = [
        next((at for at, (a, b) in enumerate(zip(one, two, strict=True)) if a != b), NEW_TOKENS)
        for one, two in zip(before.greedy, after.greedy, strict=True)
    ]
    return {
        "same_next_token": float((before.predictions == after.predictions).mean()),
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
    """Return the errors of quantized projections with the inputs of the float model.

    Args:
        calibration: the model before quantization.
        method: the method.
        scales: of activations.
        weight_scales: of weights, by their names.
        row: a text's tokens.

    Returns:
        For each projection ``largest_error`` of all outputs, ``relative_error`` (the norm of
        errors divided by that of outputs), and ``relative_error_of_weight``.
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

    calibration.observe_products(row, see)
    return [{"name": name, **errors.described()} for name, errors in sums.items()]


@dataclass
class _Errors:
    """Sums over the outputs of a projection, chunk by chunk."""

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

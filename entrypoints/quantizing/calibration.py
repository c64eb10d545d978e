"""Calibration: observation of activations, and changes of weights.

The steps and their order are upstream's: shift, smooth, scales; each one uses the model of the
previous one. Rows are read one by one in chunks, so memory depends neither on the size of a step
nor on the length of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from entrypoints.inference import dynamic
from entrypoints.inference.decoding import Model
from entrypoints.inference.llama import Tap
from entrypoints.inference.quantized import CACHES, WRAPPED
from entrypoints.models import int8
from entrypoints.quantizing.observing import (
    Largest,
    LargestOfChannels,
    LargestOfHeads,
    Middle,
    Observer,
)
from entrypoints.quantizing.text import Rows
from entrypoints.runtime.progress import in_units
from paddle_stacks.jobs.llama_config import LlamaConfig
from paddle_stacks.jobs.quantizing import GROUPS, Method
from paddle_stacks.jobs.schema import Config

__all__ = ["Calibration", "Scales", "chunks", "split"]

_CHUNK = 256  # tokens per chunk; bounds the memory

Floats = npt.NDArray[np.float32]
_Kind = TypeVar("_Kind", bound=Observer)

_NORMS = {"self_attn.q_proj": "input_layernorm", "mlp.gate_proj": "post_attention_layernorm"}


@dataclass(frozen=True)
class Scales:
    """The scales, by the name of the product.

    Args:
        activations: of the input of each group's first projection.
        caches: ``[KV heads]`` each; empty if the cache is not quantized.
    """

    activations: Mapping[str, float]
    caches: Mapping[str, Floats]


class Calibration:
    """A model during calibration.

    Args:
        model_config: the model's.
        rotation: as for :class:`Model`.
        weights: by the names of this project's network, float32; changed weights are new
            arrays.
        config: of the job.
        rows: the text; None if the method needs none.
    """

    def __init__(
        self,
        model_config: LlamaConfig,
        rotation: tuple[Any, Any],
        weights: Mapping[str, Floats],
        config: Config,
        rows: Rows | None,
    ) -> None:
        self.weights = dict(weights)
        self._model_config = model_config
        self._rotation = rotation
        self._config = config
        self._method = Method.of(config)
        self._rows = rows

    def prepare(self) -> None:
        """Shift and smooth as configured."""
        config = self._config
        if config["shift"]:
            average = config["shift_sampler"] == "ema"
            places = self._products(all_linears=config["shift_all_linears"])
            middles = self._observed("shift", places, lambda: Middle(average=average))
            for name, middle in middles.items():
                self._shift(name, middle.result())
        if config["smooth"]:
            places = self._products(all_linears=config["smooth_all_linears"])
            for name, largest in self._observed("smooth", places, LargestOfChannels).items():
                self._smooth(name, largest.result())
        if self._method.all_linears:
            self._complete()

    def scales(self) -> Scales:
        """Return the scales of activations and cache; empty if they are not quantized."""
        if not self._method.activations:
            return Scales({}, {})
        average = self._config["act_quant_method"] == "avg"
        activations = {
            name: Largest(average=average)
            for name in self._products(all_linears=True)
            if self._method.takes(name)
        }
        average = self._config["cachekv_quant_method"] == "avg_headwise"
        caches = {
            f"llama.layers.{layer}.{cache}": LargestOfHeads(average=average)
            for layer in range(self._model_config.num_hidden_layers if self._method.cache else 0)
            for cache in CACHES
        }
        self._read("ptq", {**activations, **caches})
        return Scales(
            {name: observer.result() for name, observer in activations.items()},
            {name: observer.result() for name, observer in caches.items()},
        )

    def observe_products(self, row: Sequence[int], see: Callable[[str, Floats], None]) -> None:
        """Read a row, and report the input of each product.

        Args:
            row: its tokens.
            see: called with the product's name and a chunk, ``[tokens, channels]``, or
                ``[heads, tokens, head_dim]`` of a cache.
        """

        def tap(name: str, tensor: Any) -> Any:
            see(name, tensor.numpy()[0])
            return tensor

        _read_row(self._model(tap), row)

    def _model(self, tap: Tap) -> Model:
        """Return the current model with a tap."""
        return Model(
            dynamic.Engine(self._model_config, self.weights, tap),
            self._model_config,
            self._rotation,
        )

    def _products(self, *, all_linears: bool) -> list[str]:
        return [
            f"llama.layers.{layer}.{first}"
            for layer in range(self._model_config.num_hidden_layers)
            for first in GROUPS
            if all_linears or first not in WRAPPED
        ]

    def _observed(
        self, step: str, names: Iterable[str], make: Callable[[], _Kind]
    ) -> dict[str, _Kind]:
        observers = {name: make() for name in names}
        self._read(step, observers)
        return observers

    def _read(self, step: str, observers: Mapping[str, Observer]) -> None:
        """Read the first steps of the text; the key ``<step>_step`` is their number."""

        def tap(name: str, tensor: Any) -> Any:
            if observer := observers.get(name):
                observer.see(tensor.numpy()[0])
            return tensor

        model = self._model(tap)
        assert self._rows is not None
        steps = list(
            self._rows.steps(
                self._config["per_device_train_batch_size"], self._config[f"{step}_step"]
            )
        )
        progress = in_units(step, len(steps), "steps")
        for number, batch in enumerate(steps, 1):
            for row in batch:
                _read_row(model, row)
                for observer in observers.values():
                    observer.end_row()
            for observer in observers.values():
                observer.end_step()
            progress(number)

    def _shift(self, name: str, middle: Floats) -> None:
        layer, first = split(name)
        for member in GROUPS[first]:
            weight = self.weights[f"{layer}.{member}.weight"]
            self._add(f"{layer}.{member}.bias", middle @ weight)
        if first in WRAPPED:
            self.weights[f"{name}.shift_bias"] = -middle
        else:
            self._add(f"{layer}.{_NORMS[first]}.bias", -middle)

    def _smooth(self, name: str, activations: Floats) -> None:
        layer, first = split(name)
        members = [f"{layer}.{member}.weight" for member in GROUPS[first]]
        rows = [np.abs(self.weights[member]).max(axis=1) for member in members]
        factors = int8.smoothing(activations, np.max(rows, axis=0))
        for member in members:
            self.weights[member] = self.weights[member] * factors[:, None]
        if first in WRAPPED:
            self.weights[f"{name}.smooth_weight"] = 1 / factors
            return
        norm = f"{layer}.{_NORMS[first]}"
        for part in (f"{norm}.weight", f"{norm}.bias"):
            if part in self.weights:
                self.weights[part] = self.weights[part] / factors

    def _complete(self) -> None:
        """Add neutral vectors that upstream requires in every wrapped layer."""
        for name in self._products(all_linears=True):
            if not name.endswith(WRAPPED):
                continue
            inputs, outputs = self.weights[f"{name}.weight"].shape
            self.weights.setdefault(f"{name}.shift_bias", np.zeros(inputs, np.float32))
            self.weights.setdefault(f"{name}.smooth_weight", np.ones(inputs, np.float32))
            if self._config["shift"]:
                self.weights.setdefault(f"{name}.bias", np.zeros(outputs, np.float32))

    def _add(self, name: str, values: Floats) -> None:
        before = self.weights.get(name)
        self.weights[name] = values if before is None else before + values


def split(name: str) -> tuple[str, str]:
    """Split a name such as ``llama.layers.0.mlp.down_proj`` into layer and projection."""
    parts = name.split(".")
    return ".".join(parts[:3]), ".".join(parts[3:])


def _read_row(model: Model, row: Sequence[int]) -> None:
    decoding = model.begin(1)
    for chunk in chunks(row):
        decoding.read(chunk, np.ones_like(chunk, dtype=bool))


def chunks(row: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield a row's tokens in chunks, ``[1, tokens]`` each."""
    tokens = np.array([row], dtype=np.int64)
    for begin in range(0, tokens.shape[1], _CHUNK):
        yield tokens[:, begin : begin + _CHUNK]

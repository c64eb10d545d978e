"""The configuration of a Llama checkpoint, read without Paddle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.fetching import llama as layout
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files

__all__ = ["ARCHITECTURE", "LlamaConfig", "RopeScaling"]

ARCHITECTURE = "LlamaForCausalLM"

_DYNAMIC = "--engine dynamic"

# Keys that change what a network computes and that the engine does not implement, with the values
# that change nothing.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "alibi": (False, None),
    "attention_bias": (False, None),
    "fuse_attention_ffn": (False, None),
    "fuse_attention_qkv": (False, None),
    "hidden_act": ("silu", None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "use_long_sequence_strategies": (False, None),
}


@dataclass(frozen=True)
class RopeScaling:
    """A scaling of rotary position embeddings.

    Args:
        kind: ``linear``, ``ntk`` or ``llama3``.
        factor: by which the context is extended.
        low_freq_factor: of ``llama3``.
        high_freq_factor: likewise.
        original_context: likewise, in tokens.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class LlamaConfig:
    """What ``config.json`` says of a Llama's network.

    Args:
        sizes: that decide the weights' shapes.
        tied: whether the head is the embedding.
        epsilon: of the norms.
        context: positions, ``max_position_embeddings``.
        rope_theta: base of the rotary frequencies.
        rope_scaling: None for none.
    """

    sizes: layout.Shape
    tied: bool
    epsilon: float
    context: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None

    @property
    def head_dim(self) -> int:
        """Size of an attention head."""
        return self.sizes.hidden // self.sizes.heads

    @classmethod
    def read(cls, folder: Path) -> LlamaConfig:
        """Return the configuration of a checkpoint.

        Raises:
            RequestError: it is not a Llama's, or asks for something that the engine does not
                implement; everything is named at once.
        """
        path = folder / "config.json"
        return cls.parse(json_files.read_object(path, what="not a model's configuration"), path)

    @classmethod
    def parse(cls, values: Mapping[str, Any], path: Path) -> LlamaConfig:
        """Return the configuration that a ``config.json`` contains.

        Args:
            values: its keys and values.
            path: of the file, for messages.
        """
        reader = _Reader(values, path)
        reader.check_supported()
        sizes = layout.Shape(
            vocabulary=reader.integer("vocab_size"),
            hidden=reader.integer("hidden_size"),
            intermediate=reader.integer("intermediate_size"),
            layers=reader.integer("num_hidden_layers"),
            heads=reader.integer("num_attention_heads"),
            key_value_heads=reader.integer(
                "num_key_value_heads", values.get("num_attention_heads")
            ),
        )
        config = cls(
            sizes=sizes,
            tied=values.get("tie_word_embeddings") is True,
            epsilon=reader.number("rms_norm_eps", 1e-6),
            context=reader.integer("max_position_embeddings"),
            rope_theta=reader.number("rope_theta", 10000.0),
            rope_scaling=reader.rope_scaling(),
        )
        reader.finish()
        if problems := sizes.problems(str(path)):
            raise RequestError(problems)
        head_dim = values.get("head_dim")
        if config.head_dim % 2 or head_dim not in (None, config.head_dim):
            raise RequestError(
                f"head_dim is {head_dim or config.head_dim}, which the native engine does not"
                f" support for {sizes.heads} heads of a hidden size of {sizes.hidden}",
                where=str(path),
                remedy=_DYNAMIC,
            )
        return config

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Return the weights by PaddleNLP's names, and their shapes."""
        shapes = {}
        for name, size in self.sizes.weights(self.tied).items():
            renamed, transposed = layout.paddle_names(name, size)
            shapes[renamed] = size[::-1] if transposed else size
        return shapes

    def rotary_tables(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return cosines and sines of every position, ``[context, head_dim / 2]`` each.

        They are those of PaddleNLP's and transformers' embeddings, computed in float32.
        """
        base, scaling = self.rope_theta, self.rope_scaling
        if scaling and scaling.kind == "ntk":
            base *= scaling.factor ** (self.head_dim / (self.head_dim - 2))
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        powers = np.power(np.float64(base), exponents.astype(np.float64)).astype(np.float32)
        frequencies = np.float32(1) / powers
        if scaling and scaling.kind == "llama3":
            frequencies = _llama3_frequencies(frequencies, scaling)
        positions = np.arange(self.context, dtype=np.float32)
        if scaling and scaling.kind == "linear":
            positions = positions / np.float32(scaling.factor)
        angles = positions[:, None] * frequencies
        return np.cos(angles), np.sin(angles)


def _llama3_frequencies(
    frequencies: npt.NDArray[np.float32], scaling: RopeScaling
) -> npt.NDArray[np.float32]:
    """Return Llama 3.1's frequencies: the low ones divided, those in between interpolated."""
    lengths = 2 * math.pi / frequencies.astype(np.float64)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (scaling.original_context / lengths - low) / (high - low)
    smooth = np.clip(smooth, 0, 1)
    scaled = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    return scaled.astype(np.float32)


class _Reader:
    """Reads a configuration's values and collects what is wrong with them."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self._values = values
        self._where = str(path)
        self._problems: list[Problem] = []

    def integer(self, key: str, default: Any = None) -> int:
        value = self._values.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 2**31:
            self._damaged(key, value, "a number from 1")
            return 1
        return value

    def number(self, key: str, default: float) -> float:
        value = self._values.get(key, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            self._damaged(key, value, "a positive number")
            return default
        return float(value)

    def check_supported(self) -> None:
        """Note an architecture and keys that the engine does not implement."""
        names = layout.architectures(self._values)
        if names[:1] != [ARCHITECTURE]:
            self._unsupported(f"the architecture {(names or ['unknown'])[0]:.60}")
        for key, plain in _UNSUPPORTED.items():
            if (value := self._values.get(key)) not in plain:
                self._unsupported(f"{key}: {value!r:.40}")

    def rope_scaling(self) -> RopeScaling | None:
        # PaddleNLP reads Llama 3's dictionary, else its own two keys.
        section = self._values.get("rope_scaling")
        if section is not None:
            return self._rope_section(section)
        kind = self._values.get("rope_scaling_type")
        if kind is None or kind == "dynamic_ntk":  # which begins beyond the context
            return None
        if kind not in ("linear", "ntk"):
            self._unsupported(f"rope_scaling_type: {kind!r:.40}")
            return None
        return RopeScaling(kind, self.number("rope_scaling_factor", 1.0))

    def _rope_section(self, section: Any) -> RopeScaling | None:
        kind = section.get("rope_type", section.get("type")) if isinstance(section, dict) else None
        if kind == "default":
            return None
        if kind != "llama3":
            self._unsupported(f"rope_scaling: {section!r:.60}")
            return None
        reader = _Reader(section, Path(self._where))
        scaling = RopeScaling(
            kind,
            reader.number("factor", 8.0),
            reader.number("low_freq_factor", 1.0),
            reader.number("high_freq_factor", 4.0),
            reader.integer("original_max_position_embeddings", 8192),
        )
        self._problems += reader._problems
        if scaling.low_freq_factor >= scaling.high_freq_factor:
            self._damaged("low_freq_factor", scaling.low_freq_factor, "below high_freq_factor")
        return scaling

    def finish(self) -> None:
        """Raise what was collected.

        Raises:
            RequestError: with all of it.
        """
        if self._problems:
            raise RequestError(self._problems)

    def _unsupported(self, subject: str) -> None:
        fault = f"the native engine does not support {subject}"
        self._problems.append(Problem(fault, self._where, _DYNAMIC))

    def _damaged(self, key: str, value: Any, expected: str) -> None:
        fault = f"{key} is {value!r:.40}, not {expected}"
        remedy = "fetch the model again: ./inv fetch NAME --force"
        self._problems.append(Problem(fault, self._where, remedy))

"""The configuration of a Llama checkpoint, read without Paddle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.models.llama import architectures
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.llama_config import LlamaConfig, from_config

__all__ = ["ARCHITECTURE", "NativeConfig", "RopeScaling"]

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
    original_context: float = 8192


@dataclass(frozen=True)
class NativeConfig:
    """The configuration of a network that the engine computes.

    Args:
        llama: the network's sizes.
        rope_theta: base of the rotary frequencies.
        rope_scaling: None for none.
    """

    llama: LlamaConfig
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None

    @classmethod
    def read(cls, folder: Path) -> NativeConfig:
        """Return the configuration of a checkpoint.

        Raises:
            RequestError: it is not a Llama's, or asks for something that the engine does not
                implement; everything is named at once.
        """
        path = folder / "config.json"
        return cls.parse(json_files.read_object(path, message="not a model's configuration"), path)

    @classmethod
    def parse(cls, values: Mapping[str, Any], path: Path) -> NativeConfig:
        """Return the configuration that a ``config.json`` contains.

        Args:
            values: its keys and values.
            path: of the file, for messages.
        """
        reader = _Reader(values, path)
        reader.check_supported()
        llama = reader.llama()
        theta = reader.number("rope_theta", cls.rope_theta)
        scaling = reader.rope_scaling()
        if reader.problems or llama is None:
            raise RequestError(reader.problems)
        return cls(llama, theta, scaling)

    def rotary_tables(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return cosines and sines of every position, ``[context, head_dim / 2]`` each.

        They are those of PaddleNLP's and transformers' embeddings, computed in float32.
        """
        base, scaling, dim = self.rope_theta, self.rope_scaling, self.llama.head_dim
        if scaling and scaling.kind == "ntk":
            base *= scaling.factor ** (dim / (dim - 2))
        exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
        powers = np.power(np.float64(base), exponents.astype(np.float64)).astype(np.float32)
        frequencies = np.float32(1) / powers
        if scaling and scaling.kind == "llama3":
            frequencies = _llama3_frequencies(frequencies, scaling)
        positions = np.arange(self.llama.max_position_embeddings, dtype=np.float32)
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
    """Reads a configuration's values and collects what is wrong with them in ``problems``."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self._values = values
        self._where = str(path)
        self.problems: list[Problem] = []

    def llama(self) -> LlamaConfig | None:
        """Return the sizes; None where they are not those of a Llama."""
        try:
            llama = from_config(self._values, where=self._where)
        except RequestError as error:
            self.problems += error.problems
            return None
        if llama.head_dim % 2 or self._values.get("head_dim") not in (None, llama.head_dim):
            dim = self._values.get("head_dim") or llama.head_dim
            self._unsupported(
                f"a head_dim of {dim!r:.40} with {llama.num_attention_heads} heads and a"
                f" hidden_size of {llama.hidden_size}"
            )
        return llama

    def check_supported(self) -> None:
        """Note an architecture and keys that the engine does not implement."""
        names = architectures(self._values)
        if names[:1] != [ARCHITECTURE]:
            self._unsupported(f"the architecture {(names or ['unknown'])[0]:.60}")
        for key, plain in _UNSUPPORTED.items():
            if (value := self._values.get(key)) not in plain:
                self._unsupported(f"{key}: {value!r:.40}")

    def number(self, key: str, default: float) -> float:
        value = self._values.get(key, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            fault = f'"{key}" is {value!r:.40}, not a positive number'
            self.problems.append(Problem(fault, self._where, "write it as in the model's source"))
            return default
        return float(value)

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
            reader.number("original_max_position_embeddings", 8192),
        )
        self.problems += reader.problems
        if scaling.low_freq_factor >= scaling.high_freq_factor:
            self._unsupported("a low_freq_factor that is not below high_freq_factor")
        return scaling

    def _unsupported(self, subject: str) -> None:
        fault = f"the native engine does not support {subject}"
        self.problems.append(Problem(fault, self._where, _DYNAMIC))

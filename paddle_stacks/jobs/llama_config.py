"""The configuration of a Llama: the numbers that decide its weights and their count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddle_stacks.errors import Problem, RequestError

__all__ = ["KEYS", "LlamaConfig", "from_config"]

KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
"""The keys of ``config.json`` that decide the shapes of all weights."""

# No model is larger; the limits keep typing errors from being planned, and a hostile
# configuration from filling the memory with names of layers.
_MAX_LAYERS = 2**12
_MAX_SIZE = 2**24


@dataclass(frozen=True)
class LlamaConfig:
    """The configuration of a Llama; names and defaults are those of ``config.json``.

    Args:
        vocab_size: tokens in the vocabulary.
        hidden_size: width of the residual stream.
        intermediate_size: width of the SwiGLU layer.
        num_hidden_layers: decoder layers.
        num_attention_heads: heads of the queries.
        num_key_value_heads: heads of keys and values (grouped-query attention).
        tie_word_embeddings: whether the head is the embedding.
        max_position_embeddings: the longest text in tokens; every layer has rotary tables for it.
        rms_norm_eps: added to the variance in RMS norms.
        name: the model's name, for messages.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    name: str = ""

    @property
    def sizes(self) -> dict[str, int]:
        """The values of :data:`KEYS`."""
        return {key: getattr(self, key) for key in KEYS}

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_size(self) -> int:
        """Width of the keys of all heads; the values have the same."""
        return self.head_dim * self.num_key_value_heads

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's linear parts: q, k, v, o, gate, up, down."""
        h, kv, inter = self.hidden_size, self.kv_size, self.intermediate_size
        return ((h, h), (h, kv), (h, kv), (h, h), (h, inter), (h, inter), (inter, h))

    @property
    def layer(self) -> int:
        """Parameters of a decoder layer: its matrices and two RMS norms."""
        return sum(rows * columns for rows, columns in self.matrices) + 2 * self.hidden_size

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; the head has as many."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Parameters of the model; a tied head is counted once."""
        heads = 1 if self.tie_word_embeddings else 2
        return self.num_hidden_layers * self.layer + heads * self.embedding + self.hidden_size

    def adapter(self, rank: int) -> int:
        """Return the parameters of LoRA on one layer: ``rank * (inputs + outputs)`` per matrix.

        The seven matrices are those that PaddleNLP's ``get_lora_target_modules`` adapts.
        Formula: Hu et al. 2021, arXiv:2106.09685, section 4.1.

        Args:
            rank: of the update.
        """
        return sum(rank * (rows + columns) for rows, columns in self.matrices)


def from_config(values: Mapping[str, Any], name: str = "", where: str = "") -> LlamaConfig:
    """Return the configuration that a ``config.json`` describes.

    Args:
        values: of the ``config.json``.
        name: the model's name.
        where: the file, for messages.

    Raises:
        RequestError: it is not a Llama's, or values are missing or impossible; every fault
            at once.
    """
    remedy = "write it as in the model's source"
    problems: list[Problem] = []
    model_type = values.get("model_type", "llama")
    if model_type != "llama":
        message = f'the architecture "{model_type}" is not supported'
        problems.append(Problem(message, where, "choose a model with the architecture llama"))
    sizes: dict[str, int] = {}
    for key in KEYS:
        value = values.get(key)
        if value is None and key == "num_key_value_heads":
            value = values.get("num_attention_heads")  # as upstream: no grouping
        limit = _MAX_LAYERS if key == "num_hidden_layers" else _MAX_SIZE
        if value is None:
            problems.append(Problem(f'"{key}" is missing', where, "is it a model's config.json?"))
        elif type(value) is not int or not 0 < value <= limit:
            message = f'"{key}" is {value!r:.40}, not a whole number from 1 to {limit}'
            problems.append(Problem(message, where, remedy))
        else:
            sizes[key] = value
    tied = values.get("tie_word_embeddings", False)
    if type(tied) is not bool:
        message = f'"tie_word_embeddings" is {tied!r:.40}, not true or false'
        problems.append(Problem(message, where, remedy))
    context = values.get("max_position_embeddings", LlamaConfig.max_position_embeddings)
    if type(context) is not int or not 0 < context <= _MAX_SIZE:
        message = (
            f'"max_position_embeddings" is {context!r:.40}, not a whole number from 1 to '
            f"{_MAX_SIZE}"
        )
        problems.append(Problem(message, where, remedy))
    epsilon = values.get("rms_norm_eps", LlamaConfig.rms_norm_eps)
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
        message = f'"rms_norm_eps" is {epsilon!r:.40}, not a number from 0 to 1'
        problems.append(Problem(message, where, remedy))
    if not problems:
        for size, parts in (
            ("hidden_size", "num_attention_heads"),
            ("num_attention_heads", "num_key_value_heads"),
        ):
            if sizes[size] % sizes[parts]:
                message = f"{size} {sizes[size]} is not divisible by {parts} {sizes[parts]}"
                problems.append(Problem(message, where, remedy))
                break
    if problems:
        raise RequestError(problems)
    return LlamaConfig(
        **sizes,
        tie_word_embeddings=tied,
        max_position_embeddings=context,
        rms_norm_eps=float(epsilon),
        name=name,
    )

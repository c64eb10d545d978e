"""The shape of a Llama, and how many parameters its parts have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddle_stacks.errors import Problem, RequestError

__all__ = ["KEYS", "Architecture", "from_config"]

KEYS = {
    "vocab_size": "vocabulary",
    "hidden_size": "hidden",
    "intermediate_size": "inner",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
}
"""The keys of ``config.json`` that every shape has, and their names here."""

_LARGEST = 2**24  # no model's dimension is larger; it keeps typing errors from being planned


@dataclass(frozen=True)
class Architecture:
    """The shape of a Llama.

    Args:
        name: of the model.
        vocabulary: tokens.
        hidden: width of the residual stream, ``h``.
        inner: width of the SwiGLU layer.
        layers: decoder layers.
        heads: attention heads, ``a``.
        kv_heads: heads of keys and values (grouped-query attention).
        tied: whether the head is the embedding.
        context: the longest text, for which every layer has rotary tables, in tokens.
    """

    name: str
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool = False
    context: int = 2048

    @property
    def keys(self) -> int:
        """Width of the keys of all heads."""
        return self.hidden * self.kv_heads // self.heads

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's linear parts: q, k, v, o, gate, up, down."""
        h, keys, inner = self.hidden, self.keys, self.inner
        return ((h, h), (h, keys), (h, keys), (h, h), (h, inner), (h, inner), (inner, h))

    @property
    def layer(self) -> int:
        """Parameters of a decoder layer: its matrices and two RMS norms."""
        return sum(rows * columns for rows, columns in self.matrices) + 2 * self.hidden

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; as many in the head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Parameters of the model, a tied head counted once."""
        heads = 1 if self.tied else 2
        return self.layers * self.layer + heads * self.embedding + self.hidden

    def adapter(self, rank: int) -> int:
        """Parameters of LoRA on one layer: ``rank * (inputs + outputs)`` of each matrix.

        The seven matrices are those that PaddleNLP's ``get_lora_target_modules`` adapts.
        Formula: Hu et al. 2021, arXiv:2106.09685, section 4.1.

        Args:
            rank: of the update.
        """
        return sum(rank * (rows + columns) for rows, columns in self.matrices)


def from_config(values: Mapping[str, Any], name: str, where: str = "") -> Architecture:
    """Return the shape that a model's configuration describes.

    Args:
        values: of its ``config.json``.
        name: what to call it.
        where: the file, for messages.

    Raises:
        RequestError: it is not a Llama's; every fault at once.
    """
    problems: list[Problem] = []
    kind = values.get("model_type", "llama")
    if kind != "llama":
        what = f'the architecture "{kind}" is not one that is counted'
        problems.append(Problem(what, where, "only llama is"))
    found: dict[str, int] = {}
    for key, field in KEYS.items():
        value = values.get(key)
        if value is None and key == "num_key_value_heads":
            value = values.get("num_attention_heads")  # as upstream: no grouping
        if value is None:
            problems.append(Problem(f'"{key}" is missing', where, "is it a model's config.json?"))
        elif type(value) is not int or not 0 < value <= _LARGEST:
            what = f'"{key}" is {value!r}, not a whole number from 1 to {_LARGEST}'
            problems.append(Problem(what, where, "write it as the model's source has it"))
        else:
            found[field] = value
    tied = values.get("tie_word_embeddings", False)
    if type(tied) is not bool:
        problems.append(
            Problem(
                f'"tie_word_embeddings" is {tied!r}, not true or false',
                where,
                "write it as the model's source has it",
            )
        )
    context = values.get("max_position_embeddings", 2048)  # upstream's default
    if type(context) is not int or not 0 < context <= _LARGEST:
        what = f'"max_position_embeddings" is {context!r}, not a whole number from 1 to {_LARGEST}'
        problems.append(Problem(what, where, "write it as the model's source has it"))
    if not problems and found["hidden"] % found["heads"]:
        what = f"hidden_size {found['hidden']} is not divided by {found['heads']} heads"
        problems.append(Problem(what, where, "write both as the model's source has them"))
    if not problems and found["heads"] % found["kv_heads"]:
        what = f"{found['heads']} heads are not divided by {found['kv_heads']} kv heads"
        problems.append(Problem(what, where, "write both as the model's source has them"))
    if problems:
        raise RequestError(problems)
    return Architecture(name, **found, tied=tied, context=context)

"""A Llama as PaddleNLP names and lays it out, whatever it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrypoints.models import safetensors_file
from entrypoints.models.files import write_json
from entrypoints.models.safetensors_file import Tensor
from entrypoints.runtime.progress import in_mib
from paddle_stacks.errors import Problem, RequestError

__all__ = ["Shape", "architectures", "paddle_names", "problems_of", "write_weights"]

_SHARD_BYTES = 5 * 10**9  # the ecosystem's usual size of a shard
_LISTED = 20
_MOST_LAYERS = 2**12
_LARGEST = 2**31  # of any other size; the largest models have a vocabulary of 2**18


@dataclass(frozen=True)
class Shape:
    """The sizes that decide the shape of every weight of a Llama."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int

    @property
    def key_value_width(self) -> int:
        """Width of the keys and values of all heads."""
        return self.hidden // self.heads * self.key_value_heads

    def config(self) -> dict[str, int]:
        """Return the sizes as keys of a ``config.json``."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
        }

    def problems(self, where: str) -> list[Problem]:
        """Return what is impossible about the sizes."""
        found = [
            f"{name} is {size!r:.40}" for name, size in vars(self).items() if not _positive(size)
        ]
        if not found:
            found += [
                f"{name} is {size}, and {most} is the most"
                for name, size in vars(self).items()
                if size > (most := _MOST_LAYERS if name == "layers" else _LARGEST)
            ]
        if not found and self.hidden % self.heads:
            found.append(f"a hidden size of {self.hidden} does not divide into {self.heads} heads")
        if not found and self.heads % self.key_value_heads:
            found.append(f"{self.heads} heads do not divide among {self.key_value_heads} of keys")
        return [
            Problem(
                f"impossible model: {what}",
                where,
                "change these numbers in the model's config.json or row",
            )
            for what in found
        ]

    def weights(self, tied: bool) -> dict[str, tuple[int, ...]]:
        """Return the weights and their shapes in Hugging Face's names and layout (rows = outputs).

        Args:
            tied: whether the head is the embedding, and so is not there.
        """
        block = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (self.key_value_width, self.hidden),
            "self_attn.v_proj": (self.key_value_width, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }
        found: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden)
        }
        for layer in range(self.layers):
            found |= {f"model.layers.{layer}.{name}.weight": size for name, size in block.items()}
        found["model.norm.weight"] = (self.hidden,)
        if not tied:
            found["lm_head.weight"] = (self.vocabulary, self.hidden)
        return found


def architectures(config: Mapping[str, Any]) -> list[str]:
    """Return the architectures that a model's configuration names; none where it names none."""
    names = config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def paddle_names(name: str, shape: tuple[int, ...]) -> tuple[str, bool]:
    """Return PaddleNLP's name of a weight, and whether it is transposed there.

    PaddleNLP's ``nn.Linear`` keeps ``[inputs, outputs]``; embeddings and norms
    are as they are. Rotary halves are laid out as Hugging Face does, so queries
    and keys need no more than that.
    """
    name = "llama." + name.removeprefix("model.") if name.startswith("model.") else name
    return name, len(shape) == 2 and not name.endswith("embed_tokens.weight")


def problems_of(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: str
) -> list[Problem]:
    """Return how the weights that were found differ from those that a Llama has."""
    faults = [f"weight {name} is missing" for name in wanted if name not in found]
    faults += [f"weight {name} is none of a Llama's" for name in found if name not in wanted]
    faults += [
        f"weight {name} has the shape {list(found[name])}, not {list(wanted[name])}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    more = [f"and {len(faults) - _LISTED} more of the kind"] if len(faults) > _LISTED else []
    return [
        Problem(
            fault,
            where,
            "get the model again from its source: weights and config.json do not belong together",
        )
        for fault in faults[:_LISTED] + more
    ]


def write_weights(folder: Path, weights: Sequence[Tensor]) -> None:
    """Write PaddleNLP's weights as safetensors, in shards with an index where they are large.

    A tied head is not written: PaddleNLP honours ``tie_word_embeddings`` since
    3.0.0b3 and gives the same logits with it as with a copy of the head (the
    parity test compares), training keeps the two tied as the model's makers did,
    and SmolLM2's checkpoint is 113 MB smaller.
    """
    shards = _shards(weights)
    total = safetensors_file.total_bytes(weights)
    report, done = in_mib("weights", total), 0
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        safetensors_file.write(folder / name, shard, _shifted(report, done))
        done += safetensors_file.total_bytes(shard)
        index |= {tensor.name: name for tensor in shard}
    if len(shards) > 1:
        body = {"metadata": {"total_size": total}, "weight_map": index}
        write_json(folder / "model.safetensors.index.json", body)


def _shifted(report: Callable[[int], None], by: int) -> Callable[[int], None]:
    return lambda done: report(by + done)


def _shards(weights: Sequence[Tensor]) -> list[list[Tensor]]:
    if not weights:
        raise RequestError("a model without weights", remedy="get the model again from its source")
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in weights:
        if shards[-1] and size + tensor.nbytes > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _positive(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size > 0

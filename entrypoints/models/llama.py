"""Names and layout of a Llama's weights in PaddleNLP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from entrypoints.models import safetensors_file
from entrypoints.models.files import write_json
from entrypoints.models.safetensors_file import Tensor
from entrypoints.runtime.progress import in_mib
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs.llama_config import LlamaConfig

__all__ = [
    "architectures",
    "paddle_names",
    "paddle_weight_shapes",
    "problems_of",
    "weight_shapes",
    "write_weights",
]

_SHARD_BYTES = 5 * 10**9  # the common size of a shard
_LISTED = 20


def weight_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Return the weights and their shapes in Hugging Face's names and layout (rows = outputs)."""
    hidden, inter, kv_size = config.hidden_size, config.intermediate_size, config.kv_size
    block = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv_size, hidden),
        "self_attn.v_proj": (kv_size, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inter, hidden),
        "mlp.up_proj": (inter, hidden),
        "mlp.down_proj": (hidden, inter),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for layer in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


def paddle_weight_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Return the weights and their shapes in PaddleNLP's names and layout."""
    shapes = {}
    for name, shape in weight_shapes(config).items():
        renamed, transposed = paddle_names(name, shape)
        shapes[renamed] = shape[::-1] if transposed else shape
    return shapes


def architectures(config: Mapping[str, Any]) -> list[str]:
    """Return the architectures in a model's configuration."""
    names = config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def paddle_names(name: str, shape: tuple[int, ...]) -> tuple[str, bool]:
    """Return PaddleNLP's name of a weight, and whether it is transposed there.

    PaddleNLP's ``nn.Linear`` stores ``[inputs, outputs]``; embeddings and norms are unchanged.
    The layout of rotary halves is that of Hugging Face.
    """
    name = "llama." + name.removeprefix("model.") if name.startswith("model.") else name
    return name, len(shape) == 2 and not name.endswith("embed_tokens.weight")


def problems_of(
    actual: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str
) -> list[Problem]:
    """Return the differences between the weights of a file and those of a Llama."""
    faults = [f"weight {name} is missing" for name in expected if name not in actual]
    faults += [
        f"weight {name} is not a weight of a Llama" for name in actual if name not in expected
    ]
    faults += [
        f"weight {name} has the shape {list(actual[name])}, expected {list(expected[name])}"
        for name in expected
        if name in actual and actual[name] != expected[name]
    ]
    more = [f"and {len(faults) - _LISTED} more"] if len(faults) > _LISTED else []
    return [
        Problem(
            fault,
            where,
            "get the model again from its source: weights and config.json do not belong together",
        )
        for fault in faults[:_LISTED] + more
    ]


def write_weights(folder: Path, weights: Sequence[Tensor], framework: str = "np") -> None:
    """Write weights as safetensors, in shards with an index if they are large.

    A tied head is not written: PaddleNLP supports ``tie_word_embeddings`` since 3.0.0b3 with the
    same logits (tested), training keeps the two tied, and SmolLM2's checkpoint is 113 MB
    smaller.

    Args:
        folder: of the model.
        weights: in the order of the file.
        framework: as in :func:`safetensors_file.write`.
    """
    shards = _shards(weights)
    total = safetensors_file.total_bytes(weights)
    report, done = in_mib("weights", total), 0
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        safetensors_file.write(folder / name, shard, _shifted(report, done), framework)
        done += safetensors_file.total_bytes(shard)
        index |= {tensor.name: name for tensor in shard}
    if len(shards) > 1:
        body = {"metadata": {"total_size": total}, "weight_map": index}
        write_json(folder / "model.safetensors.index.json", body)


def _shifted(report: Callable[[int], None], by: int) -> Callable[[int], None]:
    return lambda done: report(by + done)


def _shards(weights: Sequence[Tensor]) -> list[list[Tensor]]:
    if not weights:
        raise RequestError("the model has no weights", remedy="get the model again from its source")
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in weights:
        if shards[-1] and size + tensor.nbytes > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards

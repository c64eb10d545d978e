"""Floating-point operations per token, for the model FLOPs utilization."""

from __future__ import annotations

from typing import Any

__all__ = ["flops_per_token"]


def flops_per_token(config: Any, length: int) -> float:
    """Return the floating-point operations of training on one token, forward and backward.

    PaLM, arXiv 2204.02311, appendix B: six per weight of the matrices including the head
    (the embedding is looked up), and 12 · layers · width of all heads · length for attention.
    Recomputation is not counted.

    Args:
        config: of a Llama-like model.
        length: tokens of a sequence.
    """
    width = config.hidden_size
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    attention = 2 * width * heads * head + 2 * width * shared * head
    weights = config.num_hidden_layers * (attention + 3 * width * config.intermediate_size)
    weights += width * config.vocab_size
    return float(6 * weights + 12 * config.num_hidden_layers * heads * head * length)

"""Loading of the model, new or with weights; in several processes, a part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paddlenlp.transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForCausalLMPipe,
    register_sequence_parallel_allreduce_hooks,
)
from paddlenlp.transformers.configuration_utils import LlmMetaConfig

from paddle_stacks.jobs.schema import Config

__all__ = ["load"]


def load(folder: Path, config: Config, arguments: Any, tokenizer: Any) -> Any:
    """Return the model, configured like upstream's ``run_pretrain.py``.

    Args:
        folder: the model's.
        config: of the pretraining.
        arguments: upstream's arguments, with the parallelism.
        tokenizer: the minimum of a new model's vocabulary.
    """
    new = not config["continue_training"]
    dtype = "float32"
    if config["fp16_opt_level"] == "O2" and (config["fp16"] or config["bf16"]):
        dtype = "float16" if config["fp16"] else "bfloat16"
    model_config = AutoConfig.from_pretrained(str(folder))
    LlmMetaConfig.set_llm_config(model_config, arguments)
    model_config.use_fast_layer_norm = config["use_fast_layer_norm"]
    model_config.seq_length = config["max_seq_length"]
    model_config.use_cache = False
    model_config.refined_recompute = {}  # its default, "", is invalid for the layers
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(model_config, key):
            setattr(model_config, key, config[key])
    for key in ("num_hidden_layers", "fuse_attention_qkv", "fuse_attention_ffn"):
        if config[key] is not None:
            setattr(model_config, key, config[key])
    if new:
        model_config.max_position_embeddings = max(
            model_config.max_position_embeddings, config["max_seq_length"]
        )
        # Upstream's rounding, for matrix units.
        rounded = ((tokenizer.vocab_size - 1) // 128 + 1) * 128
        model_config.vocab_size = max(model_config.vocab_size, rounded)
    piped = arguments.pipeline_parallel_degree > 1
    kind = AutoModelForCausalLMPipe if piped else AutoModelForCausalLM
    if new:
        model = kind.from_config(model_config, dtype=dtype)
    else:
        model = kind.from_pretrained(str(folder), config=model_config, dtype=dtype)
    if arguments.sequence_parallel:
        register_sequence_parallel_allreduce_hooks(
            model,
            arguments.gradient_accumulation_steps,
            arguments.fuse_sequence_parallel_allreduce,
        )
    if config["recompute"]:
        model.recompute_enable()
    return model

"""Loading of the model, LoRA, and the loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddlenlp.peft.lora import LoRAConfig, LoRAModel
from paddlenlp.transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForCausalLMPipe,
)
from paddlenlp.transformers.configuration_utils import LlmMetaConfig

from entrypoints.finetuning.batches import Batch
from entrypoints.training.adapter import with_adapter
from entrypoints.training.data import IGNORED
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.schema import Config

__all__ = [
    "AnswerHead",
    "add_lora",
    "add_noise",
    "as_stage_tensors",
    "as_tensors",
    "load_model",
]

_PROJECTIONS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "qkv_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "gate_up_fused_proj",
)

# The linear layers that upstream adapts (``get_lora_target_modules``), by ``model_type``, for the
# architectures that the fetch job converts.
_TARGETS = {"llama": _PROJECTIONS, "qwen2": _PROJECTIONS}


def load_model(folder: Path, config: Config, training_arguments: Any) -> Any:
    """Return the model with the configured precision and kernels."""
    dtype = "float32"
    if config["fp16_opt_level"] == "O2" and (config["fp16"] or config["bf16"]):
        dtype = "float16" if config["fp16"] else "bfloat16"
    model_config = AutoConfig.from_pretrained(str(folder), dtype=dtype)
    LlmMetaConfig.set_llm_config(model_config, training_arguments)
    model_config.use_fast_layer_norm = config["use_fast_layer_norm"]
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(model_config, key):
            setattr(model_config, key, config[key])
    model_config.seq_length = config["max_length"]
    model_config.use_cache = False
    model_config.refined_recompute = {}  # its default, "", is invalid for the layers
    piped = training_arguments.pipeline_parallel_degree > 1
    kind = AutoModelForCausalLMPipe if piped else AutoModelForCausalLM
    # AnswerHead and the criterion of pipeline stages need complete logits.
    model_config.tensor_parallel_output = False
    # low_cpu_mem_usage skips the initialization of layers: 1.8 s instead of 7.4 s for 163M
    # parameters. It does not support distributed models.
    whole = not piped and training_arguments.tensor_parallel_degree <= 1
    return kind.from_pretrained(
        str(folder), config=model_config, dtype=dtype, low_cpu_mem_usage=whole
    )


def add_lora(model: Any, base: Path, adapter: Path | None, config: Config) -> Any:
    """Return the model with a trainable adapter and frozen base weights.

    Args:
        model: a causal language model.
        base: the model's folder, which is recorded in the adapter.
        adapter: an adapter to start from, or None for a new one.
        config: ``lora_rank`` and related keys. As upstream, alpha is twice the rank, or 4
            with rsLoRA.

    Raises:
        RequestError: the architecture is not supported.
    """
    kind = model.config.model_type
    if kind not in _TARGETS:
        raise RequestError(
            f'LoRA does not support the architecture "{kind}"',
            where=str(base),
            remedy=f"supported: {', '.join(_TARGETS)}; or use full fine-tuning: --set lora=false",
        )
    if adapter is not None:
        return with_adapter(model, adapter)
    rank = config["lora_rank"]
    return LoRAModel(
        model,
        LoRAConfig(
            target_modules=[f".*{name}.*" for name in _TARGETS[kind]],
            r=rank,
            lora_alpha=4 if config["rslora"] else 2 * rank,
            rslora=config["rslora"],
            lora_plus_scale=config["lora_plus_scale"],
            use_quick_lora=config["use_quick_lora"],
            lora_use_mixer=config["lora_use_mixer"],
            tensor_parallel_degree=model.config.tensor_parallel_degree,
            dtype=model.config.dtype,
            base_model_name_or_path=str(base),
        ),
    )


def add_noise(model: Any, alpha: float) -> None:
    """Add noise to the embeddings during training (NEFTune, arXiv 2310.05914, equation 1)."""

    def noisy(layer: Any, inputs: Any, output: Any) -> Any:
        if not layer.training:
            return output
        size = alpha / float(output.shape[1] * output.shape[2]) ** 0.5
        return output + paddle.uniform(output.shape, dtype=output.dtype, min=-size, max=size)

    model.get_input_embeddings().register_forward_post_hook(noisy)


def as_tensors(batch: Batch) -> dict[str, Any]:
    """Return a batch as tensors for the model and :class:`AnswerHead`."""
    named = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "attention_mask": batch.attention_mask,
        "answers": batch.answers,
        "targets": batch.targets,
    }
    return {name: paddle.to_tensor(array) for name, array in named.items() if array is not None}


def as_stage_tensors(batch: Batch) -> dict[str, Any]:
    """Return a batch as tensors for pipeline stages; all [rows, length]."""
    labels = np.full(batch.input_ids.size, IGNORED, dtype=np.int64)
    labels[batch.answers] = batch.targets
    return {
        "input_ids": paddle.to_tensor(batch.input_ids),
        "labels": paddle.to_tensor(labels.reshape(batch.input_ids.shape)),
    }


class AnswerHead:
    """Logits and loss at positions with a label only.

    The head is a fifth of a small model's computation, and its logits are the largest tensors
    of a step; most of them would be discarded because questions are masked.

    Args:
        model: a causal language model whose head is ``lm_head``, or a LoRA model around one.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._head = model.lm_head

    def logits(self, inputs: dict[str, Any], through: Any = None) -> Any:
        """Return the logits of a batch's labelled positions; [labels, vocabulary].

        Args:
            inputs: a batch.
            through: the distributed wrapper of the model, or None.
        """
        with self._head_inputs_at(inputs["answers"]):
            outputs = (through or self._model)(
                input_ids=inputs["input_ids"],
                position_ids=inputs.get("position_ids"),
                attention_mask=inputs.get("attention_mask"),
            )
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def losses(self, inputs: dict[str, Any], through: Any = None) -> tuple[Any, Any]:
        """Return the cross entropy at each labelled position, [labels], and the logits.

        Args:
            inputs: a batch.
            through: as for :meth:`logits`.
        """
        logits = self.logits(inputs, through).squeeze(0)
        with paddle.amp.auto_cast(False):
            losses = nn.functional.cross_entropy(
                logits.astype("float32"), inputs["targets"], reduction="none"
            )
        # Paddle's CPU kernel returns log(vocabulary) for NaN logits, so a diverged model would
        # look like an untrained one.
        return losses + 0 * logits[:, 0].detach(), logits

    @contextmanager
    def _head_inputs_at(self, positions: Any) -> Iterator[None]:
        def chosen(_layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden = inputs[0]  # [rows, length, width]
            flat = hidden.reshape([-1, hidden.shape[-1]])
            return (paddle.gather(flat, positions).unsqueeze(0), *inputs[1:])

        hook = self._head.register_forward_pre_hook(chosen)
        try:
            yield
        finally:
            hook.remove()

"""The model that is trained: loaded, wrapped for LoRA, and its loss."""

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

# The linear layers that upstream adapts (``get_lora_target_modules``), for the
# architectures that the fetch job converts. Their ``model_type``.
_TARGETS = {"llama": _PROJECTIONS, "qwen2": _PROJECTIONS}


def load_model(folder: Path, config: Config, training_arguments: Any) -> Any:
    """Return the model, in the precision and with the kernels that are asked for."""
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
    model_config.refined_recompute = {}  # its default, "", is not what the layers read
    piped = training_arguments.pipeline_parallel_degree > 1
    kind = AutoModelForCausalLMPipe if piped else AutoModelForCausalLM
    # The head's logits are asked for as a whole, by AnswerHead and by the stages' criterion.
    model_config.tensor_parallel_output = False
    # low_cpu_mem_usage builds the layers without initial values: 1.8 s instead of 7.4 s for
    # 163M parameters. Parts of a model it does not know.
    whole = not piped and training_arguments.tensor_parallel_degree <= 1
    return kind.from_pretrained(
        str(folder), config=model_config, dtype=dtype, low_cpu_mem_usage=whole
    )


def add_lora(model: Any, base: Path, adapter: Path | None, config: Config) -> Any:
    """Return the model with a trainable adapter and everything else frozen.

    Args:
        model: a causal language model.
        base: the model's folder, which the adapter remembers.
        adapter: an adapter to begin with, or None for a new one.
        config: ``lora_rank`` and its relatives. As upstream, alpha is twice the
            rank, or 4 with rsLoRA.

    Raises:
        RequestError: the architecture is not one of those that can be adapted.
    """
    kind = model.config.model_type
    if kind not in _TARGETS:
        raise RequestError(
            f'LoRA is not there for the architecture "{kind}"',
            where=str(base),
            remedy=f"there for: {', '.join(_TARGETS)}; full fine-tuning works: --set lora=false",
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
    """Add noise to the embeddings while training (NEFTune, arXiv 2310.05914, equation 1)."""

    def noisy(layer: Any, inputs: Any, output: Any) -> Any:
        if not layer.training:
            return output
        size = alpha / float(output.shape[1] * output.shape[2]) ** 0.5
        return output + paddle.uniform(output.shape, dtype=output.dtype, min=-size, max=size)

    model.get_input_embeddings().register_forward_post_hook(noisy)


def as_tensors(batch: Batch) -> dict[str, Any]:
    """Return a batch as the tensors that the model and :class:`AnswerHead` take."""
    named = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "attention_mask": batch.attention_mask,
        "answers": batch.answers,
        "targets": batch.targets,
    }
    return {name: paddle.to_tensor(array) for name, array in named.items() if array is not None}


def as_stage_tensors(batch: Batch) -> dict[str, Any]:
    """Return a batch as the tensors that the stages of a pipeline take; all [rows, length]."""
    labels = np.full(batch.input_ids.size, IGNORED, dtype=np.int64)
    labels[batch.answers] = batch.targets
    return {
        "input_ids": paddle.to_tensor(batch.input_ids),
        "labels": paddle.to_tensor(labels.reshape(batch.input_ids.shape)),
    }


class AnswerHead:
    """Logits and loss at the places that have a label, and nowhere else.

    The head is a fifth of a small model's work, and its logits are the largest
    tensors of a step: with the questions masked, most of them would be thrown away.

    Args:
        model: a causal language model whose head is ``lm_head``, or a LoRA model around one.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._head = model.lm_head

    def logits(self, inputs: dict[str, Any], through: Any = None) -> Any:
        """Return the logits of a batch's labelled places; [labels, vocabulary].

        Args:
            inputs: a batch.
            through: what wraps the model where several processes train it, or None.
        """
        with self._seeing(inputs["answers"]):
            outputs = (through or self._model)(
                input_ids=inputs["input_ids"],
                position_ids=inputs.get("position_ids"),
                attention_mask=inputs.get("attention_mask"),
            )
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def losses(self, inputs: dict[str, Any], through: Any = None) -> tuple[Any, Any]:
        """Return the cross entropy at each labelled place, and the logits; [labels] and above.

        Args:
            inputs: a batch.
            through: as for :meth:`logits`.
        """
        logits = self.logits(inputs, through).squeeze(0)
        with paddle.amp.auto_cast(False):
            losses = nn.functional.cross_entropy(
                logits.astype("float32"), inputs["targets"], reduction="none"
            )
        # Paddle's kernel on a CPU gives log(vocabulary) for a place whose logits are not
        # numbers, so a model that has diverged would look like one that knows nothing.
        return losses + 0 * logits[:, 0].detach(), logits

    @contextmanager
    def _seeing(self, places: Any) -> Iterator[None]:
        def chosen(_layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden = inputs[0]  # [rows, length, width]
            flat = hidden.reshape([-1, hidden.shape[-1]])
            return (paddle.gather(flat, places).unsqueeze(0), *inputs[1:])

        hook = self._head.register_forward_pre_hook(chosen)
        try:
            yield
        finally:
            hook.remove()

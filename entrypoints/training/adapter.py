"""LoRA adapters on PaddleNLP's models."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import paddle
from paddle.distributed.fleet.meta_parallel import PipelineLayer
from paddlenlp.peft.lora import LoRAConfig, LoRAModel
from paddlenlp.transformers import AutoModelForCausalLM

from entrypoints.models import peft_adapter
from paddle_stacks.errors import RequestError, StackError

__all__ = ["adapter_weights", "load_adapted", "trainable_parameters", "with_adapter"]


def load_adapted(folder: Path, adapter: Path) -> Any:
    """Return a model with an adapter in float32, for inference.

    Raises:
        RequestError: the adapter is incomplete or does not fit the model.
    """
    network = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype="float32", low_cpu_mem_usage=True
    )
    adapted = with_adapter(network, adapter)
    adapted.eval()
    return adapted


def with_adapter(model: Any, adapter: Path) -> Any:
    """Return a model with a trainable adapter.

    Raises:
        RequestError: the adapter is incomplete or does not fit the model.
    """
    if peft_adapter.is_peft(adapter):
        with TemporaryDirectory() as folder:
            peft_adapter.write_paddle(adapter, Path(folder), "the model that PEFT trained it on")
            return with_adapter(model, Path(folder))
    settings = LoRAConfig.from_pretrained(str(adapter))
    weights = adapter_weights(adapter)
    if _is_distributed(model):
        return LoRAModel.from_pretrained(model, str(adapter), lora_config=settings)
    adapted = LoRAModel(model, settings)
    expected = {name: tuple(p.shape) for name, p in trainable_parameters(adapted.model)}
    actual = {name: tuple(array.shape) for name, array in weights.items()}
    if expected != actual:
        names = sorted(n for n in {*expected, *actual} if expected.get(n) != actual.get(n))
        raise RequestError(
            f"the adapter does not fit the model: {len(names)} of its weights differ in name or "
            f"shape, the first is {names[0]} ({actual.get(names[0])} in the adapter, "
            f"{expected.get(names[0])} in the model)",
            where=str(adapter),
            remedy=f"use the model that it was trained on: {settings.base_model_name_or_path}",
        )
    adapted.model.set_state_dict(weights)
    return adapted


def _is_distributed(model: Any) -> bool:
    """Return whether the model is distributed over processes."""
    return model.config.tensor_parallel_degree > 1 or isinstance(model, PipelineLayer)


def adapter_weights(adapter: Path) -> dict[str, Any]:
    """Return the factors of a PaddleNLP adapter as NumPy arrays.

    Raises:
        RequestError: the file cannot be read.
    """
    file = adapter / "lora_model_state.pdparams"
    try:
        weights: dict[str, Any] = paddle.load(str(file), return_numpy=True)
    except StackError:  # also a signal to stop
        raise
    except Exception as error:  # unpickling raises any exception
        raise RequestError(
            f"the adapter's weights cannot be read: {type(error).__name__}: {error}",
            where=str(file),
            remedy="if the run is unfinished, start the same finetune command again",
        ) from None
    return weights


def trainable_parameters(model: Any) -> list[tuple[str, Any]]:
    """Return the names and tensors of trainable parameters."""
    return [(name, p) for name, p in model.named_parameters() if not p.stop_gradient]

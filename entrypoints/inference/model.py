"""Loading of causal language models for decoding, optionally with a merged adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.inference import quantized
from entrypoints.inference.adapter import Adapter
from entrypoints.inference.protocols import LanguageModel
from entrypoints.inference.weights import Weights
from entrypoints.models.llama import paddle_weight_shapes, problems_of
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import backends, json_files, workspace

__all__ = [
    "check_complete",
    "context_length",
    "load",
    "read_config",
    "vocabulary_size",
]


# Settings of the training machine in a checkpoint's configuration, with values that work on every
# device: only some have the fused kernels.
_PLAIN = {
    "use_flash_attention": False,
    "use_fused_rms_norm": False,
    "use_fused_rope": False,
    "tensor_parallel_degree": 1,
    "sequence_parallel": False,
    "recompute": False,
    "use_last_token_for_generation": True,  # the head's product for the last position only
}


def load(folder: Path, adapter: Path | None = None, dtype: str = "float32") -> LanguageModel:
    """Return the model of a PaddleNLP checkpoint, with an adapter merged into it.

    A Llama on a CPU runs with this project's network (``llama.py``), others with PaddleNLP's.

    Args:
        folder: the checkpoint.
        adapter: the adapter; None for none.
        dtype: the computation type; a CPU supports ``float32`` only.

    Raises:
        RequestError: the checkpoint or the adapter is missing, damaged or not supported, or
            they do not belong together.
    """
    # The native engine uses this module too, and does without Paddle.
    import paddle

    from entrypoints.inference import dynamic
    from entrypoints.inference.decoding import Model, shared
    from entrypoints.inference.llama import llama_config, rotation_tables
    from entrypoints.inference.network import NetworkModel

    if adapter and workspace.is_quantized(folder):
        raise RequestError(
            f"{folder} is quantized, so an adapter cannot be merged",
            where=str(adapter),
            remedy="merge the adapter first (export --merge), then quantize the result",
        )
    weights = Weights(folder)
    device = backends.device(backends.current())
    paddle.set_device(device)
    config = read_config(folder)
    if device == "cpu" and config.architectures[0] == "LlamaForCausalLM":
        llama = llama_config(config)
        shapes = paddle_weight_shapes(llama)
        check_complete(weights, shapes)
        merged = _merged(weights, adapter, dtype)
        arrays = {name: merged(name) for name in shapes}
        tap = None
        if workspace.is_quantized(folder):
            arrays |= {
                ours: merged(name) for ours, name in quantized.extra_weights(weights).items()
            }
            tap = quantized.rounding_of(folder, llama.num_hidden_layers, llama.num_key_value_heads)
        engine = dynamic.Engine(llama, arrays, tap)
        return Model(engine, llama, rotation_tables(config, llama.max_position_embeddings))
    network = _empty(config, dtype)
    parameters = dict(network.named_parameters())
    check_complete(weights, {name: tuple(each.shape) for name, each in parameters.items()})
    merged = _merged(weights, adapter, dtype)
    for name, parameter in parameters.items():
        # Shares the memory, like PaddleNLP's own loader; on a device it is that of the copy.
        array = merged(name)
        (shared(array) if device == "cpu" else paddle.to_tensor(array))._share_buffer_to(parameter)
    return NetworkModel(network)


def _merged(weights: Weights, adapter: Path | None, dtype: str) -> Callable[[str], Any]:
    """Return a function that returns a weight by name, with the adapter merged."""
    changes = Adapter(adapter, {name: weights.shape(name) for name in weights}) if adapter else None
    changed: dict[str, npt.NDArray[Any]] = {}
    for name, values, added in changes.changes() if changes else ():
        merged = changed.get(name, weights[name]) + values if added else values
        changed[name] = merged.astype(dtype, copy=False)

    def get(name: str) -> npt.NDArray[Any]:
        return np.ascontiguousarray(changed.get(name, weights[name]), dtype=dtype)

    return get


def context_length(folder: Path) -> int:
    """Return the length of a model's context, in tokens.

    Raises:
        RequestError: ``config.json`` cannot be read or lacks it.
    """
    return _configured(folder, "max_position_embeddings")


def vocabulary_size(folder: Path) -> int:
    """Return the size of a model's vocabulary.

    Raises:
        RequestError: ``config.json`` cannot be read or lacks it.
    """
    return _configured(folder, "vocab_size")


def _configured(folder: Path, key: str) -> int:
    """Return a required positive number of a model's configuration."""
    path = folder / "config.json"
    number = json_files.read_object(path, message="not a model's configuration").get(key)
    if type(number) is not int or not 0 < number < 2**31:
        raise RequestError(
            f"{key} is {number!r:.40}, expected a positive number",
            where=str(path),
            remedy="fetch the model again: ./inv fetch NAME --force",
        )
    return number


def read_config(folder: Path) -> Any:
    """Return a checkpoint's configuration, without device-specific settings.

    Raises:
        RequestError: the model is not a causal language model.
    """
    from paddlenlp import transformers

    config = transformers.AutoConfig.from_pretrained(str(folder))
    for key, value in _PLAIN.items():
        setattr(config, key, value)
    name = (config.architectures or [""])[0]
    if not name.endswith("ForCausalLM") or not hasattr(transformers, name):
        raise RequestError(
            f'the architecture "{name}" is not a causal language model of PaddleNLP',
            where=str(folder / "config.json"),
            remedy="use a model with an architecture such as LlamaForCausalLM",
        )
    return config


def _empty(config: Any, dtype: str) -> Any:
    """Return the network of a configuration, with uninitialized weights."""
    import paddle
    from paddlenlp import transformers
    from paddlenlp.transformers.model_utils import no_init_weights

    # PaddleNLP creates masks in the default type. The lowest float32 would be minus infinity
    # in float16, for which softmax returns NaN.
    paddle.set_default_dtype(dtype)
    with no_init_weights(), paddle.LazyGuard():
        network = getattr(transformers, config.architectures[0])(config)
    network.eval()
    return network


def check_complete(weights: Weights, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check that a checkpoint's weights match its configuration.

    Raises:
        RequestError: weights are missing or have another shape.
    """
    actual = {name: weights.shape(name) for name in expected if name in weights}
    if problems := problems_of(actual, expected, str(weights.folder)):
        raise RequestError(problems)

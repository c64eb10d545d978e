"""A causal language model, ready to decode: its weights, an adapter in them, a cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle.utils.dlpack import from_dlpack

from entrypoints.inference.adapter import Adapter
from entrypoints.inference.weights import Weights
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import platforms

__all__ = ["Decoding", "LanguageModel", "context_length", "load"]

_CHUNK = 512  # tokens of prompts that go through the model at once: bounds memory
_LISTED = 5

# What a checkpoint's configuration may say for the machine it was trained on, as every device
# has it: the fused kernels are there for some of them only.
_PLAIN = {
    "use_flash_attention": False,
    "use_fused_rms_norm": False,
    "use_fused_rope": False,
    "tensor_parallel_degree": 1,
    "sequence_parallel": False,
    "recompute": False,
    "use_last_token_for_generation": True,  # the head's product for the last position only
}


class LanguageModel:
    """PaddleNLP's model, called a step at a time.

    Args:
        network: a ``…ForCausalLM``.
    """

    def __init__(self, network: Any) -> None:
        self._network = network

    def start(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        """Read prompts, padded on the left to one length, and return their decoding."""
        longest = max(map(len, prompts))
        tokens = np.zeros((len(prompts), longest), dtype=np.int64)
        known = np.zeros((len(prompts), longest), dtype=bool)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = prompt
            known[row, longest - len(prompt) :] = True
        decoding = Decoding(self._network, len(prompts))
        chunk = max(_CHUNK // len(prompts), 1)
        for begin in range(0, longest, chunk):
            decoding.read(tokens[:, begin : begin + chunk], known[:, begin : begin + chunk])
        return decoding


class Decoding:
    """A batch of texts in the making: what the model has read, and what it makes of it.

    Args:
        network: a ``…ForCausalLM``.
        rows: texts in the batch.

    Attributes:
        logits: of the next token, ``[batch, vocabulary]``.
    """

    logits: npt.NDArray[np.float32]

    def __init__(self, network: Any, rows: int) -> None:
        self._network = network
        self._past: Any = None
        self._known = np.zeros((rows, 0), dtype=bool)

    def read(self, tokens: npt.NDArray[np.int64], known: npt.NDArray[np.bool_]) -> None:
        """Give the model the next tokens.

        Args:
            tokens: ``[batch, new]``.
            known: ``[batch, new]``, false where a token is padding.
        """
        past, new = self._known.shape[1], tokens.shape[1]
        self._known = np.concatenate([self._known, known], axis=1)
        positions = np.maximum(np.cumsum(self._known, axis=1) - 1, 0)[:, past:]
        # Of four dimensions, so that PaddleNLP takes it as it is and makes none of its own:
        # its idea of the past's length is wrong for the layout that attention.py keeps.
        before = np.arange(past + new) <= np.arange(past, past + new)[:, None]
        visible = self._known[:, None, None, :] & before
        with paddle.no_grad():
            found = self._network(
                input_ids=paddle.to_tensor(tokens),
                position_ids=paddle.to_tensor(positions),
                attention_mask=paddle.to_tensor(visible),
                past_key_values=self._past,
                use_cache=True,
                return_dict=True,
            )
        self._past = found.past_key_values
        # Nothing is copied where it is float32 already.
        self.logits = found.logits[:, -1].numpy().astype(np.float32, copy=False)

    def step(self, tokens: Sequence[int]) -> None:
        """Give the model the token that was chosen for every text."""
        column = np.array(tokens, dtype=np.int64)[:, None]
        self.read(column, np.ones_like(column, dtype=bool))

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these texts only."""
        index = paddle.to_tensor(np.array(rows, dtype=np.int64))
        self._past = [
            tuple(paddle.index_select(part, index, axis=0) for part in layer)
            for layer in self._past
        ]
        self._known = self._known[list(rows)]
        self.logits = self.logits[list(rows)]


def load(folder: Path, adapter: Path | None = None, dtype: str = "float32") -> LanguageModel:
    """Return the model of a PaddleNLP checkpoint, with an adapter merged into it.

    Args:
        folder: the checkpoint.
        adapter: the adapter; None for none.
        dtype: what is computed in; a CPU has ``float32`` only.

    Raises:
        RequestError: the checkpoint or the adapter is missing, damaged or of a
            kind that is not supported, or the two do not belong together.
    """
    weights = Weights(folder)
    device = platforms.device(platforms.current())
    paddle.set_device(device)
    network = _empty(folder, dtype, device)
    parameters = dict(network.named_parameters())
    _check_complete(weights, parameters)
    changes = Adapter(adapter, {name: weights.shape(name) for name in weights}) if adapter else None
    changed: dict[str, npt.NDArray[Any]] = {}
    for name, values, added in changes.changes() if changes else ():
        merged = changed.get(name, weights[name]) + values if added else values
        changed[name] = merged.astype(dtype, copy=False)
    for name, parameter in parameters.items():
        array = np.ascontiguousarray(changed.get(name, weights[name]), dtype=dtype)
        # Shares the memory, as PaddleNLP's own loader does; on a card it is the copy's there.
        on_device = from_dlpack(array.__dlpack__()) if device == "cpu" else paddle.to_tensor(array)
        on_device._share_buffer_to(parameter)
    from entrypoints.inference.attention import speed_up

    with paddle.no_grad():
        speed_up(network)
    return LanguageModel(network)


def context_length(folder: Path) -> int:
    """Return the number of tokens a model can look back on.

    Raises:
        RequestError: its ``config.json`` cannot be read or does not say.
    """
    path = folder / "config.json"
    try:
        length = json.loads(path.read_text(encoding="utf-8"))["max_position_embeddings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fault = f"not a model's configuration: {type(error).__name__}: {error}"
        raise RequestError(fault, where=str(path)) from None
    if not isinstance(length, int) or length < 1:
        raise RequestError(f"max_position_embeddings is {length!r}", where=str(path))
    return length


def _empty(folder: Path, dtype: str, device: str) -> Any:
    """Return the network that a checkpoint is for, without values in it."""
    from paddlenlp import transformers
    from paddlenlp.transformers.model_utils import no_init_weights

    config = transformers.AutoConfig.from_pretrained(str(folder))
    for key, value in _PLAIN.items():
        setattr(config, key, value)
    name = (config.architectures or [""])[0]
    network_class = getattr(transformers, name, None) if name.endswith("ForCausalLM") else None
    if network_class is None:
        raise RequestError(
            f'the architecture "{name}" is not a causal language model of PaddleNLP',
            where=str(folder / "config.json"),
            remedy="architectures are LlamaForCausalLM and the like",
        )
    if device == "cpu":
        # Strided views, Paddle's default, are turned into matrices by a kernel that takes
        # 20 ns an element; plain copies take a thirtieth.
        paddle.set_flags({"FLAGS_use_stride_kernel": False})
    # From now on: PaddleNLP makes its masks in the default type, and the lowest float32
    # would be minus infinity in float16, of which softmax makes no number.
    paddle.set_default_dtype(dtype)
    with no_init_weights(), paddle.LazyGuard():
        network = network_class(config)
    network.eval()
    return network


def _check_complete(weights: Weights, parameters: dict[str, Any]) -> None:
    faults = []
    for name, parameter in parameters.items():
        if name not in weights:
            faults.append(f"the weight {name} is missing")
        elif weights.shape(name) != tuple(parameter.shape):
            wanted, found = list(parameter.shape), list(weights.shape(name))
            faults.append(f"the weight {name} is {found}, and config.json makes it {wanted}")
    if faults:
        more = [f"and {len(faults) - _LISTED} more of the kind"] if len(faults) > _LISTED else []
        where = str(weights.folder)
        raise RequestError([Problem(fault, where) for fault in faults[:_LISTED] + more])

"""What a training step costs on a CPU, and cheaper ways to the same values.

Most kernels of Paddle's CPU build run on one thread, so that a step waits for
element-wise work more than for matrix products. One step of LoRA on
SmolLM2-135M (batch 4, 56 tokens each, two cores of an AMD EPYC), in tokens/s:
185 as it comes, 222 with :func:`_rms_norm`, 255 with :func:`_rotate_half` as
well, 334 without strided views on top.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddlenlp.transformers.llama import modeling as llama

__all__ = ["use_cheaper"]

_ROTATIONS: dict[tuple[int, str], Any] = {}


def use_cheaper() -> None:
    """Use them in this process, which trains on a CPU, from now on."""
    # A transposed view costs a matrix product more than copying it once does.
    paddle.set_flags({"FLAGS_use_stride_kernel": False})
    llama.LlamaRMSNorm.forward = _rms_norm
    llama.rotate_half = _rotate_half
    llama.LlamaPretrainingCriterion.forward = _telling(llama.LlamaPretrainingCriterion.forward)


def _telling(measure: Any) -> Any:
    """Return a criterion that is not a number where the logits are none.

    Paddle's kernel on a CPU gives log(vocabulary) for them, so a model that has diverged
    would look like one that knows nothing.
    """
    if getattr(measure, "tells", False):
        return measure

    def criterion(self: Any, prediction_scores: Any, *labels: Any, **named: Any) -> Any:
        loss = measure(self, prediction_scores, *labels, **named)
        return loss + 0 * prediction_scores[..., 0].detach().astype("float32").mean()

    criterion.tells = True  # type: ignore[attr-defined]
    return criterion


def _rms_norm(self: Any, hidden_states: Any) -> Any:
    """Do as ``LlamaRMSNorm.forward``, with a product for the square: ``pow`` calls libm.

    Args:
        self: the layer.
        hidden_states: of any shape, normalized over the last axis.
    """
    with paddle.amp.auto_cast(False):
        states = hidden_states.astype("float32")
        variance = (states * states).mean(-1, keepdim=True)
        normal = paddle.rsqrt(variance + self.variance_epsilon) * hidden_states
    if self.weight.dtype in (paddle.float16, paddle.bfloat16):
        normal = normal.astype(self.weight.dtype)
    return normal * self.weight


def _rotate_half(x: Any) -> Any:
    """Do as ``rotate_half``: ``[a, b]`` becomes ``[-b, a]``, exactly.

    A product with a signed permutation uses both cores; slicing, negating and
    joining, and their gradients, use one.

    Args:
        x: of any shape; the last axis is split in halves.
    """
    key = (x.shape[-1], str(x.dtype))
    if key not in _ROTATIONS:
        half = x.shape[-1] // 2
        one = paddle.eye(half, dtype="float32")
        nothing = paddle.zeros([half, half])
        rows = [paddle.concat([nothing, one], 1), paddle.concat([-one, nothing], 1)]
        _ROTATIONS[key] = paddle.concat(rows, 0).astype(x.dtype)
    return paddle.matmul(x, _ROTATIONS[key])

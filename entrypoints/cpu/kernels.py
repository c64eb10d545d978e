"""Faster equivalents of PaddleNLP's operations for training on a CPU.

Most kernels of Paddle's CPU build run on one thread, so element-wise operations take longer than
matrix products. LoRA on SmolLM2-135M (batch 4, 56 tokens each, two cores of an AMD EPYC) trains
185 tokens/s unmodified, 222 with :func:`_rms_norm`, 255 with :func:`_rotate_half` too, and 334
without strided views as well.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddlenlp.transformers.llama import modeling as llama

__all__ = ["install"]

_ROTATIONS: dict[tuple[int, str], Any] = {}


def install() -> None:
    """Replace the operations in this process."""
    # Copying a transposed view once is cheaper than multiplying it.
    paddle.set_flags({"FLAGS_use_stride_kernel": False})
    llama.LlamaRMSNorm.forward = _rms_norm
    llama.rotate_half = _rotate_half
    llama.LlamaPretrainingCriterion.forward = _nan_preserving(
        llama.LlamaPretrainingCriterion.forward
    )


def _nan_preserving(measure: Any) -> Any:
    """Return a criterion that returns NaN for NaN logits.

    Paddle's CPU kernel returns log(vocabulary) for them, so a diverged model would look like an
    untrained one.
    """
    if getattr(measure, "preserves_nan", False):
        return measure

    def criterion(self: Any, prediction_scores: Any, *labels: Any, **named: Any) -> Any:
        loss = measure(self, prediction_scores, *labels, **named)
        return loss + 0 * prediction_scores[..., 0].detach().astype("float32").mean()

    criterion.preserves_nan = True  # type: ignore[attr-defined]
    return criterion


def _rms_norm(self: Any, hidden_states: Any) -> Any:
    """``LlamaRMSNorm.forward`` with a product for the square, because ``pow`` calls libm.

    Args:
        self: the layer.
        hidden_states: of any shape; normalized over the last axis.
    """
    with paddle.amp.auto_cast(False):
        states = hidden_states.astype("float32")
        variance = (states * states).mean(-1, keepdim=True)
        normal = paddle.rsqrt(variance + self.variance_epsilon) * hidden_states
    if self.weight.dtype in (paddle.float16, paddle.bfloat16):
        normal = normal.astype(self.weight.dtype)
    return normal * self.weight


def _rotate_half(x: Any) -> Any:
    """``rotate_half``, exactly: ``[a, b]`` becomes ``[-b, a]``.

    The product with a signed permutation matrix uses all cores; slicing, negation and
    concatenation and their gradients use one.

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

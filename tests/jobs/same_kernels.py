"""Loss and gradients before and after the cheaper kernels: ``python same_kernels.py MODEL``."""

from __future__ import annotations

import json
import sys

import paddle
from paddlenlp.transformers import AutoModelForCausalLM

from entrypoints.cpu import kernels

ids = paddle.to_tensor([[1, 17, 230, 9, 512, 77, 301, 4], [1, 5, 6, 7, 8, 9, 10, 11]])


def step(model):
    """The loss, and every gradient."""
    loss = model(input_ids=ids, labels=ids)
    loss = loss[0] if isinstance(loss, tuple) else loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    return float(loss), gradients


model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
model.train()
loss, gradients = step(model)
before = model.llama.layers[0].input_layernorm.forward
kernels.install()
cheaper_loss, cheaper = step(model)
scale = max(float(gradient.abs().max()) for gradient in gradients.values())
print(
    json.dumps(
        {
            "replaced": model.llama.layers[0].input_layernorm.forward != before,
            "gradients": len(gradients),
            "same_names": sorted(gradients) == sorted(cheaper),
            "loss": abs(loss - cheaper_loss),
            "largest": max(float((g - cheaper[n]).abs().max()) for n, g in gradients.items())
            / scale,
        }
    )
)

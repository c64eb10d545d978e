"""Loading of unified checkpoints in one process, which PaddleNLP 3.0.0b3 does not support.

A unified checkpoint stores complete weights and optimizer states by the model's names, so that
it can be loaded in another layout. In one process, upstream only reads the first file, and
fails on optimizers without master weights ("unhashable type: 'list'").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
from paddlenlp.trainer.unified_checkpoint.unified_checkpoint import UnifiedCheckpointHandler
from paddlenlp.trainer.unified_checkpoint.utils import FP32_MASTER, get_expected_state_dict
from safetensors.numpy import load_file

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files

__all__ = ["OneProcess", "is_unified"]

_MODEL, _ADAPTER = "model.safetensors.index.json", "peft_model.safetensors.index.json"
_OPTIMIZER, _MASTER = "optimizer.safetensors.index.json", "master_weights.safetensors.index.json"


def is_unified(folder: Path) -> bool:
    """Return whether a checkpoint is a unified one."""
    return (folder / _OPTIMIZER).is_file()


class OneProcess(UnifiedCheckpointHandler):  # type: ignore[misc]
    """Loads unified checkpoints of any number of processes in one process."""

    def load_unified_checkpoint(self, model: Any, resume_from_checkpoint: str) -> None:
        """Load the weights of a checkpoint into a model."""
        folder = Path(resume_from_checkpoint)
        index = _MODEL if (folder / _MODEL).is_file() else _ADAPTER
        weights = _read(folder, index)
        missing = sorted(set(get_expected_state_dict(model)) - set(weights))
        if missing:
            raise RequestError(
                f"{len(missing)} weights are missing, the first is {missing[0]}",
                where=str(folder),
                remedy="the checkpoint is of another model; start the run again: --resume never",
            )
        own = get_expected_state_dict(model)
        for name, tensor in own.items():
            tensor.set_value(paddle.to_tensor(weights[name]).astype(tensor.dtype))

    def load_unified_optimizer(
        self, model: Any, optimizer: Any, resume_from_checkpoint: str
    ) -> dict[str, Any]:
        """Return an optimizer's state by its own names."""
        folder = Path(resume_from_checkpoint)
        own = get_expected_state_dict(model)
        states = dict(optimizer.state_dict())
        masters = _read(folder, _MASTER) if (folder / _MASTER).is_file() else {}
        for name, array in _read(folder, _OPTIMIZER).items():
            weight, _, state = name.partition("/")
            tensor = own[weight]
            master = [FP32_MASTER] if masters and tensor.dtype != paddle.float32 else []
            key = "_".join([tensor.name, *master, state])
            states[key] = paddle.to_tensor(array)
            states[key].name = key
        if masters:
            states["master_weights"] = {}
            for name, array in masters.items():
                value = paddle.to_tensor(array)
                value.name = f"{own[name].name}_{FP32_MASTER}"
                states["master_weights"][own[name].name] = value
        return states


def _read(folder: Path, index: str) -> dict[str, Any]:
    """Return all arrays of an index."""
    files = json_files.shards(folder / index)
    arrays: dict[str, Any] = {}
    for name in sorted(set(files.values())):
        arrays |= load_file(folder / name)
    return arrays

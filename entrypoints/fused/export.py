"""Export of a fused model as a static graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle

from entrypoints.fused import models
from entrypoints.fused.options import Options
from entrypoints.models.files import copy_companions
from paddle_stacks.jobs import fused_models
from paddle_stacks.jobs.files import replacing_folder

__all__ = ["export"]


def export(options: Options) -> None:
    """Write a model's static graph, its configuration and its tokenizer.

    Args:
        options: of the run.
    """
    model = models.load(options)
    config: dict[str, Any] = {"dtype": options.dtype, "max_length": models.length_of(options)}
    if options.block_attn:
        config |= {"cachekv_int8_type": model.config.cachekv_int8_type, "max_batch_size": -1}
    with replacing_folder(Path(options.output_path)) as part:
        model.to_static(str(part / options.model_prefix), config)
        copy_companions((options.model,), part)
        _write_config(options, model.config, part)


def _write_config(options: Options, config: Any, output: Path) -> None:
    config.infer_model_block_size = options.block_size
    config.infer_model_max_seq_len = models.length_of(options)
    config.infer_model_cachekv_int8_type = config.cachekv_int8_type
    config.infer_model_dtype = options.dtype
    config.infer_model_paddle_commit = paddle.version.commit
    setattr(config, fused_models.PROGRAM, fused_models.OURS)
    config.save_pretrained(str(output))

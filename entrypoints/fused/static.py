"""The static graph of a fused model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from entrypoints.fused.options import Options

__all__ = ["Graph"]


class Graph:
    """A static graph written by :mod:`entrypoints.fused.export`.

    Args:
        options: of the run.
    """

    def __init__(self, options: Options) -> None:
        prefix = str(options.model / options.model_prefix)
        config = paddle.inference.Config(f"{prefix}.json", f"{prefix}.pdiparams")
        config.disable_gpu()
        config.disable_glog_info()
        # Like upstream: optimization passes only for the loop of a dense graph.
        config.switch_ir_optim(not options.block_attn)
        config.enable_new_executor()
        self._predictor = paddle.inference.create_predictor(config)

    def run(self, inputs: Mapping[str, Any]) -> npt.NDArray[np.int64]:
        """Run the graph and return the first output.

        Args:
            inputs: tensors by name; the graph may update them in place.
        """
        for name, value in inputs.items():
            self._predictor.get_input_handle(name).share_external_data(value)
        self._predictor.run()
        first = self._predictor.get_output_names()[0]
        output: npt.NDArray[np.int64] = self._predictor.get_output_handle(first).copy_to_cpu()
        return output

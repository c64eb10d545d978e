"""Run on every node: start two processes here, which add up their ranks with all the others."""

import os
import sys
from pathlib import Path

if len(sys.argv) > 1:
    import paddle
    import paddle.distributed

    paddle.distributed.init_parallel_env()
    total = paddle.to_tensor([float(paddle.distributed.get_rank())])
    paddle.distributed.all_reduce(total)
    print("rank", paddle.distributed.get_rank(), "sum", int(total), flush=True)
else:
    from entrypoints.runtime import launcher
    from paddle_stacks.jobs.options import NodeOptions

    launcher.launch(
        [__file__, "as a worker"],
        launcher.environment(os.environ),
        "meet",
        Path("/tmp/log"),
        ranks=2,
        nodes=launcher.Nodes.of(NodeOptions(wait=60), os.environ),
        job="meet",
    )

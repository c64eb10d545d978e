"""Stands for a training: every step takes all processes, and the last whole one is kept.

Run on each node with where they meet in the environment, as a job of several nodes is.
"""

import os
import signal
import sys
import time
from pathlib import Path

STEPS, SECONDS = int(sys.argv[1]), 0.2
KEPT = Path("runs", "steps", "step")


def start() -> None:
    """Start Paddle's launcher, which prefers variables to what it is told."""
    node, count, master = (
        os.environ.pop(f"PADDLE_{name}") for name in ("RANK", "NNODES", "MASTER")
    )
    print("given:", " ".join(sorted(k for k in os.environ if k.startswith("PADDLE_"))), flush=True)
    command = [sys.executable, "-u", "-m", "paddle.distributed.launch", "--nproc_per_node", "1"]
    command += ["--nnodes", count, "--master", master, "--rank", node]
    command += ["--log_dir", f"runs/steps/log-{node}", __file__, *sys.argv[1:]]
    os.execv(sys.executable, command)


def work() -> int:
    import paddle

    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    paddle.distributed.init_parallel_env()
    rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
    step = int(KEPT.read_text()) if KEPT.is_file() else 0
    print(f"rank {rank} of {world} begins after step {step}", flush=True)
    while step < STEPS:
        total = paddle.to_tensor([rank + 1.0, float(bool(told))])
        paddle.distributed.all_reduce(total)
        assert float(total[0]) == world * (world + 1) / 2
        if float(total[1]):
            print(f"stopped after step {step}", flush=True)
            return 128 + signal.SIGTERM
        step += 1
        if rank == 0:
            KEPT.with_suffix(".part").write_text(str(step))
            KEPT.with_suffix(".part").rename(KEPT)
        time.sleep(SECONDS)
    print(f"done after step {step}", flush=True)
    return 0


if "PADDLE_TRAINER_ENDPOINTS" not in os.environ:
    start()
sys.exit(work())

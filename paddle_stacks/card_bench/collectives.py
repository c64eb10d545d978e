"""Measure all-reduce between the processes of Paddle's launcher; runs in the training image.

It imports nothing of this project. Process 0 prints one line of JSON for each size, behind
``collective``: bytes, seconds of the fastest repetition, and the bus bandwidth in GB/s,
``2 (n - 1) / n * bytes / seconds`` (nccl-tests, doc/PERFORMANCE.md).
"""

from __future__ import annotations

import json
import sys
import time

SIZES = [2**10, 2**16, 2**20, 2**24, 2**28]  # bytes; float32
_REPETITIONS = 5


def main(argv: list[str]) -> int:
    """Measure the sizes up to the limit in ``argv`` and return the exit status.

    Args:
        argv: the largest size in bytes.

    Raises:
        SystemExit: the result of a reduction is wrong.
    """
    import paddle
    from paddle import distributed

    distributed.init_parallel_env()
    rank, count = distributed.get_rank(), distributed.get_world_size()
    for size in [each for each in SIZES if each <= int(argv[0])]:
        seconds = []
        for _ in range(_REPETITIONS):
            values = paddle.full([size // 4], float(rank + 1), dtype="float32")
            distributed.barrier()
            start = time.perf_counter()
            distributed.all_reduce(values)
            # Reading a value waits for the card.
            last = float(values[-1])
            seconds.append(time.perf_counter() - start)
            if last != count * (count + 1) / 2:
                raise SystemExit(f"all_reduce of {size} bytes is wrong: {last}")
        best = min(seconds)
        speed = 2 * (count - 1) / count * size / best / 1e9
        if rank == 0:
            line = {"bytes": size, "seconds": best, "gb_per_second": speed, "processes": count}
            print("collective", json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

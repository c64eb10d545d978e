"""Run the finetune job and print the peak bytes of tensors in Paddle's allocator.

Paddle counts them on a CPU as on a device, but has a public function for devices only,
``paddle.device.cuda.max_memory_allocated``.
"""

from __future__ import annotations

import sys

from paddle.base import core

from entrypoints.__main__ import main

if __name__ == "__main__":
    status = main(["finetune", *sys.argv[1:]])
    print(f"allocated {core.host_memory_stat_peak_value('Allocated', 0)}", file=sys.stderr)
    sys.exit(status)

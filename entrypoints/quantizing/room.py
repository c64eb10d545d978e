"""Checks of disk space and memory before a quantization."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

from entrypoints.models.llama import paddle_names, weight_shapes
from paddle_stacks.errors import MachineError, Problem
from paddle_stacks.jobs.llama_config import LlamaConfig
from paddle_stacks.jobs.quantizing import Method

__all__ = ["bytes_of_memory", "bytes_on_disk", "check"]

_FILES = 64 * 2**20  # tokenizer, scales and report
_PROGRAM = 600 * 2**20  # Paddle, PaddleNLP and their data: docs/performance.md
_LOGITS = 4 * 256  # of a chunk, in float32, with temporaries


def bytes_on_disk(config: LlamaConfig, method: Method) -> int:
    """Return the maximum size of a quantized model, in bytes.

    Args:
        config: the model's.
        method: of the quantization.
    """
    total = _FILES
    for name, size in weight_shapes(config).items():
        renamed, _ = paddle_names(name, size)
        small = "_proj" in renamed and method.takes(renamed)
        total += math.prod(size) * (1 if small else 4)
    return total


def bytes_of_memory(config: LlamaConfig) -> int:
    """Return the memory for quantization in bytes, without the mapped file.

    Changed and evaluated weights exist twice; the rest does not depend on the length of the
    text.

    Args:
        config: the model's.
    """
    weights = sum(4 * math.prod(size) for size in weight_shapes(config).values())
    return _PROGRAM + 2 * weights + 4 * _LOGITS * config.vocab_size


def check(folder: Path, config: LlamaConfig, method: Method, root: Path = Path("/")) -> None:
    """Check disk space and memory.

    Args:
        folder: the destination; it need not exist.
        config: the model's.
        method: of the quantization.
        root: of the file system with /proc and /sys.

    Raises:
        MachineError: there is too little of one or both.
    """
    existing = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    problems = []
    needed, free = bytes_on_disk(config, method), shutil.disk_usage(existing).free
    if free < needed:
        message = f"the quantized model needs up to {_mib(needed)} MiB; {_mib(free)} MiB are free"
        remedy = "free some space, and start the same command again"
        problems.append(Problem(message, str(existing), remedy))
    needed, free = bytes_of_memory(config), min(_memory(root), default=2**63)
    if free < needed:
        message = f"quantization needs {_mib(needed)} MiB of memory; {_mib(free)} MiB are available"
        remedy = "use a machine with more memory, or a smaller model"
        problems.append(Problem(message, "memory", remedy))
    if problems:
        raise MachineError(problems)


def _memory(root: Path) -> Iterator[int]:
    """Yield the available memory of the machine, and the limit of the container."""
    information = root / "proc" / "meminfo"
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    limit = root / "sys" / "fs" / "cgroup" / "memory.max"
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        yield int(text)


def _mib(count: int) -> int:
    return -(-count // 2**20)

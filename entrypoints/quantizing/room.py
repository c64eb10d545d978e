"""Whether a machine has room for a quantization: on its disk, and in its memory."""

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
_PROGRAM = 600 * 2**20  # Paddle, PaddleNLP and what they keep: docs/performance.md
_LOGITS = 4 * 256  # of a piece, in float32, and what is computed of them


def bytes_on_disk(config: LlamaConfig, method: Method) -> int:
    """Return what a quantized model takes at the most.

    Args:
        config: the model's.
        method: how it is quantized.
    """
    total = _FILES
    for name, size in weight_shapes(config).items():
        renamed, _ = paddle_names(name, size)
        small = "_proj" in renamed and method.takes(renamed)
        total += math.prod(size) * (1 if small else 4)
    return total


def bytes_of_memory(config: LlamaConfig) -> int:
    """Return what quantizing takes, without the model's file, whose pages are the system's.

    The weights that were changed and those that are measured are there twice; the rest is
    what a piece of a row needs, however long the text is.

    Args:
        config: the model's.
    """
    weights = sum(4 * math.prod(size) for size in weight_shapes(config).values())
    return _PROGRAM + 2 * weights + 4 * _LOGITS * config.vocab_size


def check(folder: Path, config: LlamaConfig, method: Method, root: Path = Path("/")) -> None:
    """Refuse to begin what there is no room for.

    Args:
        folder: that will be written into, or the nearest one above it that is there.
        config: the model's.
        method: how it is quantized.
        root: of the file system that says what memory there is.

    Raises:
        MachineError: with a problem for the disk, and one for the memory.
    """
    place = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    problems = []
    needed, free = bytes_on_disk(config, method), shutil.disk_usage(place).free
    if free < needed:
        message = (
            f"the quantized model takes up to {_mib(needed)} MiB, and {_mib(free)} MiB are free"
        )
        remedy = "free some space, and start the same command again"
        problems.append(Problem(message, str(place), remedy))
    needed, free = bytes_of_memory(config), min(_memory(root), default=2**63)
    if free < needed:
        message = f"quantizing takes {_mib(needed)} MiB of memory, and {_mib(free)} MiB are there"
        remedy = "a machine with more, or a smaller model"
        problems.append(Problem(message, "memory", remedy))
    if problems:
        raise MachineError(problems)


def _memory(root: Path) -> Iterator[int]:
    """Yield the bytes that the machine has left, and those that a container may take."""
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

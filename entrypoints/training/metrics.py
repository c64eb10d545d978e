"""``metrics.jsonl``: one JSON object for each logged step and each evaluation."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.files import replacing_file

__all__ = ["Metrics", "peak_memory_mib"]


class Metrics:
    """The metrics of a run.

    A line has ``step`` and either ``loss``, ``learning_rate``,
    ``tokens_per_second`` and ``memory_mib``, or ``eval_loss`` and
    ``eval_accuracy``. Lines are appended and flushed one by one.

    Args:
        path: the file.
        step: the step to resume from; lines of later steps, which were not saved, are
            removed. Zero starts a new file.
        writes: whether this process writes the file.
    """

    def __init__(self, path: Path, step: int, *, writes: bool = True) -> None:
        self._path = path
        if not writes:
            return
        entries = [entry for entry in _entries(path) if entry["step"] <= step] if step else []
        with replacing_file(path) as stream:
            stream.writelines(_line(entry) for entry in entries)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one line."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(_line(entry))

    def entries(self) -> list[dict[str, Any]]:
        """Return the lines of the file."""
        return _entries(self._path)


def peak_memory_mib() -> int:
    """Return the peak memory of this process in MiB; device memory if it uses a device."""
    paddle = sys.modules.get("paddle")
    if paddle is not None and paddle.get_device().startswith("gpu"):
        return int(paddle.device.cuda.max_memory_allocated()) // 2**20
    # Linux counts KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _entries(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of the file; a killed process may have left a partial one."""
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json_files.parse(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            entries.append(entry)
    return entries

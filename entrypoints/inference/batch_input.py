"""Reading and batching of the prompts of ``--input``, without Paddle."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from entrypoints.inference.arguments import STANDARD_STREAM, Options
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.prompts import Prompt, parse, with_system

__all__ = ["batches", "read_prompts"]


def read_prompts(options: Options) -> tuple[bytes, list[Prompt]]:
    """Return the content of ``--input``, and its prompts.

    Raises:
        RequestError: it cannot be read, or lines are invalid.
    """
    name = options.input or STANDARD_STREAM
    if name == STANDARD_STREAM:
        content, name = sys.stdin.buffer.read(), "standard input"
    else:
        try:
            content = Path(name).read_bytes()
        except OSError as error:
            fault = f"cannot read the prompts: {error.strerror}"
            raise RequestError(
                fault,
                where=name,
                remedy="use --input FILE with a path in the workspace, or - for standard input",
            ) from None
    prompts = [with_system(prompt, options.system) for prompt in parse(content, name)]
    return content, prompts


def batches(lengths: Mapping[int, int], size: int) -> list[list[int]]:
    """Return the prompts' numbers in batches of similar length, to reduce padding.

    The longest come first, so that a run that exceeds the memory fails at once.
    """
    order = sorted(lengths, key=lambda number: (-lengths[number], number))
    return [order[at : at + size] for at in range(0, len(order), size)]

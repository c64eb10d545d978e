"""The prompts of ``--input``: read and checked before Paddle is imported, put into batches."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from entrypoints.inference.arguments import STANDARD_STREAM, Options
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.prompts import Prompt, parse, with_system

__all__ = ["batches", "read_prompts"]


def read_prompts(options: Options) -> tuple[bytes, list[Prompt]]:
    """Return what ``--input`` holds, as it is and as prompts.

    Raises:
        RequestError: it cannot be read, or lines are wrong.
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
                fault, where=name, remedy="--input FILE, below the workspace; - is standard input"
            ) from None
    prompts = [with_system(prompt, options.system) for prompt in parse(content, name)]
    return content, prompts


def batches(lengths: Mapping[int, int], size: int) -> list[list[int]]:
    """Return the prompts' numbers in batches of similar length, so that little is padded.

    The longest come first: what runs out of memory does so at once.
    """
    order = sorted(lengths, key=lambda number: (-lengths[number], number))
    return [order[at : at + size] for at in range(0, len(order), size)]

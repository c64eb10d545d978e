"""The prompts of ``--input``, read and checked before Paddle is imported."""

from __future__ import annotations

import sys
from pathlib import Path

from entrypoints.inference.arguments import STANDARD_STREAM, Options
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.prompts import Prompt, parse, with_system

__all__ = ["read_prompts"]


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
            raise RequestError(fault, where=name) from None
    prompts = [with_system(prompt, options.system) for prompt in parse(content, name)]
    return content, prompts

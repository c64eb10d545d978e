"""Runs what a program of upstream's does: ``python -m entrypoints.fused SCRIPT [ARGUMENT …]``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from entrypoints.console import phase
from entrypoints.fused.options import parse
from paddle_stacks.errors import StackError, render


def main(argv: Sequence[str]) -> int:
    """Run the program, and return its exit status."""
    try:
        _run(argv[0], argv[1:])
    except StackError as error:
        coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        print(render(error, colour=coloured), file=sys.stderr)
        return error.status
    return 0


def _run(script: str, words: Sequence[str]) -> None:
    options = parse(script, words)
    phase("start PaddlePaddle")
    from entrypoints.training.quiet import libraries_log_to
    from entrypoints.upstream_patches import PATCHES, hook
    from paddle_stacks.jobs import platforms

    libraries_log_to(None)
    backend = platforms.current()
    hook.install(patch for patch in PATCHES if backend in patch.backends)
    if script.endswith("export_model.py"):
        import paddle

        from entrypoints.fused.export import export

        paddle.set_device(options.device)
        paddle.set_default_dtype(options.dtype)
        phase("make the static graph")
        export(options)
        return
    from entrypoints.fused.predict import predict

    predict(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

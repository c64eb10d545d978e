"""Replacement of upstream's programs: ``python -m entrypoints.fused SCRIPT [ARGUMENT …]``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from entrypoints.fused.options import Options, parse
from entrypoints.runtime.console import note, phase
from paddle_stacks.errors import StackError, render

__all__ = ["main", "prepare", "run"]


def main(argv: Sequence[str]) -> int:
    """Run the program, and return its exit status."""
    try:
        options = parse(argv[0], argv[1:])
        prepare()
        run(argv[0], options)
    except StackError as error:
        coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        print(render(error, colour=coloured), file=sys.stderr)
        return error.status
    return 0


def prepare() -> None:
    """Import Paddle, and install the patches for modules that are imported later."""
    phase("start PaddlePaddle")
    from entrypoints.runtime.logging import libraries_log_to
    from entrypoints.upstream_patches import PATCHES, hook
    from paddle_stacks.jobs import backends

    libraries_log_to(None)
    backend = backends.current()
    hook.install(patch for patch in PATCHES if backend in patch.backends)


def run(script: str, options: Options) -> list[list[int]]:
    """Run a program after :func:`prepare`, and return the generated tokens.

    Args:
        script: upstream's.
        options: of the run.
    """
    import paddle

    if not options.inference_model and options.device == "cpu" and options.dtype != "float32":
        note(f"unfused models have no {options.dtype} kernels on a CPU: using float32")
        options = replace(options, dtype="float32")
    paddle.set_device(options.device)
    paddle.set_default_dtype(options.dtype)
    if script.endswith("export_model.py"):
        from entrypoints.fused.export import export

        phase("create the static graph")
        export(options)
        return []
    from entrypoints.fused.predict import predict

    return predict(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

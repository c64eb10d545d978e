"""The ``quantize`` job: converts a model to int8; on a device with upstream's program."""

from __future__ import annotations

from entrypoints.runtime.arguments import parse
from entrypoints.runtime.console import note, phase, report
from entrypoints.runtime.disk import writing_below
from entrypoints.runtime.lock import locked
from entrypoints.runtime.logging import libraries_log_to
from entrypoints.runtime.stop import StopSignal
from entrypoints.runtime.stubs import install_stubs
from entrypoints.upstream import run_with_config
from paddle_stacks.jobs import backends, quantizing, workspace
from paddle_stacks.jobs.files import remove_unfinished
from paddle_stacks.jobs.options import QuantizeOptions

__all__ = ["main", "run"]


def main(argv: list[str]) -> int:
    """Run the job; on a CPU, print the folder of the quantized model."""
    if backends.current() != "cpu":
        return run_with_config("quantize", "run_finetune.py", argv)
    return run(argv)


def run(argv: list[str]) -> int:
    """Quantize on a CPU, and return 0.

    Args:
        argv: the job's arguments.
    """
    arguments = parse(QuantizeOptions, argv)
    config = quantizing.load(arguments)
    for text in config.notes:
        note(text)
    model = quantizing.check(config, force=arguments.force)
    output = quantizing.output_folder(config)
    with (
        writing_below(output),
        StopSignal(),
        locked(output.parent, f".{output.name}.lock"),
    ):
        remove_unfinished(output)
        workspace.check_output(output, (model,), force=arguments.force)
        phase("start PaddlePaddle")
        install_stubs()
        libraries_log_to(None)
        from entrypoints.quantizing.run import quantize

        result = quantize(config, model, output)
    report("result", output=str(output), perplexity=round(result["perplexity"]["after"], 3))
    print(output)
    return 0

"""The ``export`` job: a merged model, a static graph, or another tool's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from entrypoints.exporting import formats
from entrypoints.exporting.request import check_architecture
from entrypoints.fetching import folder as checkpoints
from entrypoints.inference.adapter import check_base
from entrypoints.models.files import fingerprint
from entrypoints.runtime.arguments import parse
from entrypoints.runtime.console import phase, report
from entrypoints.runtime.disk import writing_below
from entrypoints.runtime.lock import locked
from entrypoints.runtime.logging import libraries_log_to
from entrypoints.runtime.stubs import install_stubs
from entrypoints.training.saving import write_merged
from paddle_stacks.jobs import workspace
from paddle_stacks.jobs.files import remove_unfinished, replacing_folder
from paddle_stacks.jobs.options import ExportOptions

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the job; print the model's folder."""
    arguments = parse(ExportOptions, argv)
    output = Path(arguments.output)
    model = workspace.find_trained(arguments.model)
    workspace.check_weights(model, arguments.allow_pickle)
    adapter = workspace.find_adapter(arguments.adapter) if arguments.adapter else None
    sources = (model, adapter) if adapter else (model,)
    workspace.check_output(output, sources, force=arguments.force)
    if arguments.merge:
        workspace.check_trainable(model)
    if arguments.static:
        check_architecture(model)
    if arguments.format:
        formats.check(arguments, model, adapter)
    if adapter:
        phase("compare the base model")
        check_base(adapter, model, trust_name=False)
    if not arguments.format:
        phase("start PaddlePaddle")
        install_stubs()
        libraries_log_to(None)
    with writing_below(output), locked(output.parent, f".{output.name}.lock"):
        remove_unfinished(output)
        workspace.check_output(output, sources, force=arguments.force)
        if arguments.format:
            formats.export(arguments, model, adapter, output)
        else:
            _export(arguments, model, adapter, output)
    report("result", output=str(output))
    print(output)
    return 0


def _export(arguments: ExportOptions, model: Path, adapter: Path | None, output: Path) -> None:
    import paddle

    # On the CPU, which needs no device and gives the same result everywhere.
    paddle.set_device("cpu")
    with replacing_folder(output) as part:
        if adapter:
            _merge(model, adapter, part)
        else:
            phase("copy the model")
            checkpoints.copy(model, part)
        if arguments.static:
            from entrypoints.exporting.static import add_static

            add_static(part, model, adapter, _sources(model, adapter))


def _merge(model: Path, adapter: Path, part: Path) -> None:
    from entrypoints.training.adapter import load_adapted

    phase("load the model and the adapter")
    network = load_adapted(model, adapter)
    phase("merge")
    write_merged(network, (model,), part)


def _sources(model: Path, adapter: Path | None) -> dict[str, Any]:
    """Return the sources of the export for the manifest."""
    sources: dict[str, Any] = {
        "model": {"folder": str(model), "weights_sha256": fingerprint(model)}
    }
    about = {"folder": str(adapter), "weights_sha256": fingerprint(adapter)} if adapter else None
    return {**sources, "adapter": about}

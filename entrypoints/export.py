"""The ``export`` job: a model with a LoRA adapter merged into its weights."""

from __future__ import annotations

import json
from pathlib import Path

from entrypoints.arguments import parser
from entrypoints.console import phase, report
from entrypoints.training.disk import writing_below
from entrypoints.training.imports import spare
from entrypoints.training.lock import locked
from entrypoints.training.quiet import libraries_log_to
from entrypoints.training.saving import BASE, fingerprint, save_merged
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import workspace

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the job; the model's folder goes to standard output."""
    arguments = parser("export").parse_args(argv)
    if not arguments.merge:
        raise RequestError("nothing to do", where="export", remedy="--merge merges an adapter")
    output = Path(arguments.output)
    model = workspace.find_trained(arguments.model)
    adapter = workspace.find_adapter(arguments.adapter)
    _check_output(output, model, adapter, force=arguments.force)
    phase("compare the base model")
    _check_base(model, adapter)
    phase("start PaddlePaddle")
    spare()
    libraries_log_to(None)
    with writing_below(output), locked(output.parent, f".{output.name}.lock"):
        _check_output(output, model, adapter, force=arguments.force)
        _merge(model, adapter, output)
    report("result", output=str(output))
    print(output)
    return 0


def _check_output(output: Path, model: Path, adapter: Path, *, force: bool) -> None:
    if output.resolve() in (model.resolve(), adapter.resolve(), *model.resolve().parents):
        raise RequestError(
            "the output folder would take the place of what it is made from",
            where=str(output),
            remedy="give another one: --output models/NAME",
        )
    if output.exists() and not force:
        raise RequestError(
            "the output folder is there already", where=str(output), remedy="--force replaces it"
        )


def _check_base(model: Path, adapter: Path) -> None:
    """Refuse a model that is not the one the adapter was trained on.

    An adapter that was made elsewhere does not say which model that was; then
    the shapes decide, when it is loaded.
    """
    about = adapter / BASE
    if not about.is_file():
        return
    try:
        told = json.loads(about.read_text(encoding="utf-8"))
        name, expected = told["model"], told["weights_sha256"]
    except (ValueError, KeyError, TypeError):
        raise RequestError("it cannot be read", where=str(about)) from None
    if fingerprint(model) != expected:
        raise RequestError(
            f"the adapter was trained on {name}, and the weights of {model} are not the same",
            where=str(adapter),
            remedy=f"--model {Path(name).name}",
        )


def _merge(model: Path, adapter: Path, output: Path) -> None:
    import paddle

    from entrypoints.training.model import load_adapted

    # Merging is one addition: on the CPU it needs no card, and gives the same everywhere.
    paddle.set_device("cpu")

    phase("load the model and the adapter")
    network = load_adapted(model, adapter)
    phase("merge")
    save_merged(network, (model,), output)

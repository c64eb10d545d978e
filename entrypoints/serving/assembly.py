"""Loads a model and its tokenizers for the server."""

from __future__ import annotations

from pathlib import Path

from entrypoints.console import note, phase
from entrypoints.inference import fingerprint
from entrypoints.inference.model import context_length, load, vocabulary_size
from entrypoints.inference.text import Text
from entrypoints.serving.arguments import Options
from entrypoints.serving.parts import Model, Parts, Tokenizers, put_together
from entrypoints.tokenizer import load as load_tokenizer
from paddle_stacks.jobs import workspace

__all__ = ["assemble"]

_MADE = {workspace.MODEL, workspace.MERGED}


def assemble(options: Options, model: Path, adapter: Path | None) -> Parts:
    """Load a model and return the server that has it.

    Args:
        options: of the job.
        model: the base model's folder.
        adapter: the adapter's folder, or None.

    Raises:
        RequestError: the model or the adapter is missing, damaged or of a kind that is
            not supported.
    """
    context = context_length(model)
    asking, answering = load_tokenizer(model), load_tokenizer(model)
    tokenizers = Tokenizers(
        chat=Text(asking, model, context, raw=False),
        raw=Text(asking, model, context, raw=True),
        engine=Text(answering, model, context, raw=True),
    )
    if not tokenizers.chat.has_template:
        note("the model has no chat template: it takes single messages, as they are")
    phase("load the model" + (" with its adapter" if adapter else ""))
    network = load(model, adapter, options.dtype)
    digests = fingerprint.of_folder(model) + (fingerprint.of_folder(adapter) if adapter else "")
    digest = fingerprint.of_bytes(digests.encode())
    return put_together(
        options,
        Model(
            network=network,
            tokenizers=tokenizers,
            name=options.name or _name(model, adapter),
            context=context,
            vocabulary=vocabulary_size(model),
            fingerprint=f"fp_{digest[:12]}",
        ),
    )


def _name(model: Path, adapter: Path | None) -> str:
    """Return what clients call a model: its folder's name, and its adapter's run's."""
    made, by_runs = (adapter, {workspace.ADAPTER}) if adapter else (model, _MADE)
    within_run = made.name in by_runs and made.parent.name != "models"
    return (made.parent if within_run else made).resolve().name

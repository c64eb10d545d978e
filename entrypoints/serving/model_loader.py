"""Loading of a model and its tokenizers for the server."""

from __future__ import annotations

from pathlib import Path

from entrypoints.inference import fingerprint
from entrypoints.inference.generation_config import repetition_penalty
from entrypoints.inference.model import context_length, load, vocabulary_size
from entrypoints.inference.protocols import LanguageModel
from entrypoints.inference.text import Text
from entrypoints.models.tokenizer import load_for_inference
from entrypoints.runtime.console import note, phase
from entrypoints.serving.app_factory import Model, Server, Tokenizers, create_server
from entrypoints.serving.arguments import Options
from paddle_stacks.jobs import workspace

__all__ = ["load_server"]

_TRAINED = {workspace.MODEL, workspace.MERGED}


def load_server(options: Options, model: Path, adapter: Path | None) -> Server:
    """Load a model and return its server.

    Args:
        options: of the job.
        model: the base model's folder.
        adapter: the adapter's folder, or None.

    Raises:
        RequestError: the model or the adapter is missing, damaged or not supported.
    """
    context, size = context_length(model), vocabulary_size(model)
    tokenizer = load_for_inference(model)
    tokenizers = Tokenizers(
        chat=Text(tokenizer, model, context, raw=False, vocabulary_size=size),
        raw=Text(tokenizer, model, context, raw=True, vocabulary_size=size),
        engine=Text(load_for_inference(model), model, context, raw=True),
    )
    if not tokenizers.chat.has_template:
        note("the model has no chat template: /v1/chat/completions answers with 400")
    phase("load the model" + (" with its adapter" if adapter else ""))
    network = _load(options, model, adapter)
    digests = fingerprint.of_folder(model) + (fingerprint.of_folder(adapter) if adapter else "")
    digest = fingerprint.of_bytes(digests.encode())
    return create_server(
        options,
        Model(
            network=network,
            tokenizers=tokenizers,
            name=options.served_model_name or _name(model, adapter),
            context=context,
            vocabulary=size,
            fingerprint=f"fp_{digest[:12]}",
            repetition_penalty=repetition_penalty(model),
        ),
    )


def _load(options: Options, model: Path, adapter: Path | None) -> LanguageModel:
    if options.engine == "native":
        from entrypoints.native.model import load as load_native

        return load_native(model, adapter, options.precision)
    return load(model, adapter, options.compute_dtype)


def _name(model: Path, adapter: Path | None) -> str:
    """Return a model's name in the API: that of its folder or its adapter's run."""
    folder, by_runs = (adapter, {workspace.ADAPTER}) if adapter else (model, _TRAINED)
    within_run = folder.name in by_runs and folder.parent.name != "models"
    return (folder.parent if within_run else folder).resolve().name

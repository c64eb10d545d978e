"""The model card of an export: base model, licence, training and evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrypoints.fetching import checkpoint
from paddle_stacks import __version__
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files, models, workspace

__all__ = ["CARD", "Origin", "origin_of", "write"]

CARD = "README.md"

_SETTINGS = (
    *("dataset_name_or_path", "max_steps", "num_train_epochs", "learning_rate"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_length"),
    *("lora", "lora_rank", "seed"),
)
_RESULTS = ("steps", "first_loss", "last_loss", "eval_loss", "eval_accuracy")
_USE = {
    "huggingface": "```python\n"
    "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'model = AutoModelForCausalLM.from_pretrained("{output}")\n'
    'tokenizer = AutoTokenizer.from_pretrained("{output}")\n```\n\n'
    "```sh\nvllm serve {output}\n```\n",
    "gguf": "```sh\nllama-cli -m {output}/{file}\n```\n",
    "peft": "```python\n"
    "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
    'model = AutoModelForCausalLM.from_pretrained("{base}")\n'
    'model = PeftModel.from_pretrained(model, "{output}")\n```\n',
    "paddlenlp": "```python\n"
    "from paddlenlp.transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'model = AutoModelForCausalLM.from_pretrained("{output}")\n'
    'tokenizer = AutoTokenizer.from_pretrained("{output}")\n```\n',
}


@dataclass(frozen=True)
class Origin:
    """The base model, the licence and the training of an export.

    Args:
        base: the base model: a name on Hugging Face's hub where that is known, else a folder's.
        licence: of the base model; empty if unknown.
        run: the folder of the fine-tuning, or None.
        settings: of that run.
        results: of that run.
    """

    base: str
    licence: str
    run: str
    settings: Mapping[str, Any]
    results: Mapping[str, Any]


def origin_of(model: Path, adapter: Path | None) -> Origin:
    """Return where a model and its adapter come from, as far as their folders tell.

    Args:
        model: the model.
        adapter: the adapter, or None.
    """
    run = (adapter or model).parent
    settings = _read(run / "config.json")
    base = model
    if "dataset_name_or_path" not in settings:
        run, settings = Path(), {}
    elif adapter is None:
        try:
            base = workspace.find_model(str(settings.get("model_name_or_path")))
        except RequestError:
            base = Path(str(settings.get("model_name_or_path")))
    manifest = checkpoint.read_manifest(base)
    source = manifest.source if manifest else ""
    name = source.partition(":")[2] if source.startswith("huggingface:") else base.name
    return Origin(
        name,
        _licence(manifest.model if manifest else base.name),
        "" if run == Path() else run.name,
        {key: settings[key] for key in _SETTINGS if settings.get(key) is not None},
        {key: value for key, value in _read(run / "result.json").items() if key in _RESULTS},
    )


def _licence(name: str) -> str:
    try:
        return models.find(name).licence
    except RequestError:
        return ""


def _read(path: Path) -> dict[str, Any]:
    try:
        return json_files.read_object(path)
    except RequestError:
        return {}


def write(
    folder: Path, name: str, form: str, precision: str, origin: Origin, file: str = ""
) -> None:
    """Write the model card.

    Args:
        folder: of the export.
        name: of the export.
        form: ``huggingface``, ``gguf``, ``peft`` or ``paddlenlp``.
        precision: of the weights.
        origin: where the model comes from.
        file: the GGUF file's name.
    """
    library = {"huggingface": "transformers", "gguf": "gguf", "peft": "peft"}.get(form, "paddlenlp")
    head = {"base_model": origin.base, "library_name": library, "pipeline_tag": "text-generation"}
    if origin.licence:
        head = {"license": "other", "license_name": origin.licence, **head}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    lines += [f"# {name}", "", "| | |", "|---|---|", f"| base model | {_cell(origin.base)} |"]
    licence = origin.licence or "unknown: see the base model"
    lines += [f"| licence of the base model | {_cell(licence)} |"]
    lines += [f"| format, precision | {form}, {precision} |"]
    if origin.run:
        lines += [f"| fine-tuned in the run | {_cell(origin.run)} |"]
    lines += [f"| exported by | paddle-stacks {__version__} |", ""]
    for title, values in (("Training", origin.settings), ("Results", origin.results)):
        if values:
            lines += [f"## {title}", "", "| key | value |", "|---|---|"]
            lines += [f"| `{key}` | {_cell(value)} |" for key, value in values.items()]
            lines += [""]
    use = _USE[form].format(output=name, base=origin.base, file=file)
    text = "\n".join([*lines, "## Use", "", use])
    (folder / CARD).write_text(text, encoding="utf-8")


def _cell(value: Any) -> str:
    """Return a value for a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")

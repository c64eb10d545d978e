"""The files of a model's folder that can hold its chat template.

Standard library only: the host and the containers both import this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files, workspace
from paddle_stacks.jobs.schema import Config

__all__ = [
    "JINJA",
    "NO_TEMPLATE",
    "PADDLE",
    "TemplateFile",
    "default_template",
    "exists",
    "find",
    "missing_note",
    "named",
]

JINJA = "chat_template.jinja"
"""A template in Jinja's language."""

PADDLE = "chat_template.json"
"""A template in PaddleNLP's format; it overrides the others, as in PaddleNLP."""

NO_TEMPLATE = "none"
"""The ``chat_template`` of a configuration that wants none."""

_CONFIG = "tokenizer_config.json"
_LARGEST = 2**20  # bytes; the templates of models with tools have some 20 kB


@dataclass(frozen=True)
class TemplateFile:
    """A chat template and its file.

    Args:
        source: the template, in Jinja's language.
        path: the file.
    """

    source: str
    path: Path


def find(folder: Path) -> TemplateFile | None:
    """Return the Jinja template in a model's folder; None if there is none.

    ``chat_template.jinja`` overrides the key in ``tokenizer_config.json``.

    Raises:
        RequestError: a file cannot be read.
    """
    path = folder / JINJA
    if path.is_file():
        return TemplateFile(_text(path), path)
    path = folder / _CONFIG
    if not path.is_file():
        return None
    template = default_template(json_files.read_object(path).get("chat_template"), path)
    return None if template is None else TemplateFile(template, path)


def exists(folder: Path) -> bool:
    """Return whether a model's folder has a chat template of any kind.

    Raises:
        RequestError: a file cannot be read.
    """
    return (folder / PADDLE).is_file() or find(folder) is not None


def named(config: Config) -> Path | None:
    """Return the template's file that a fine-tuning names instead of the model's.

    Raises:
        RequestError: the file does not exist.
    """
    name = config["chat_template"]
    if name in (None, NO_TEMPLATE, config["model_name_or_path"]):
        return None
    path = Path(name) / PADDLE if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise RequestError(
            "the chat template does not exist",
            where=f'"chat_template": "{name}"',
            remedy="name a chat_template.json or its folder; paths start in the workspace",
        )
    return path


def missing_note(config: Config, here: Path = Path()) -> str:
    """Return a note on a fine-tuning without a chat template; empty if it has one.

    Args:
        config: the fine-tuning's configuration.
        here: the workspace.

    Raises:
        RequestError: a file of the tokenizer cannot be read.
    """
    if config["chat_template"] not in (None, config["model_name_or_path"]):
        return ""  # one is named, or "none"
    name = config["tokenizer_name_or_path"] or config["model_name_or_path"]
    try:
        folder = workspace.find_model(name, here)
    except RequestError:
        return ""  # other checks report it
    if exists(folder):
        return ""
    return f"{name} has no chat template: it is trained on plain src and tgt, and cannot chat"


def default_template(value: Any, path: Path) -> str | None:
    """Return the default template.

    Args:
        value: value of the key ``chat_template``: a template, or an object or a list of named ones.
        path: its file.

    Raises:
        RequestError: the value is something else.
    """
    if isinstance(value, list):
        try:
            value = {entry["name"]: entry["template"] for entry in value}
        except (KeyError, TypeError):
            value = False  # neither a template nor a list of named ones
    if isinstance(value, dict):
        value = value.get("default")
    if value is None or isinstance(value, str):
        return value
    raise RequestError(
        "chat_template is neither a template nor a list of named templates",
        where=str(path),
        remedy="get the file again from the model's source",
    )


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST // 2**20} MiB")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(
            f"the chat template cannot be read: {reason}",
            where=str(path),
            remedy="get the file again from the model's source",
        ) from None

"""Loading of tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from entrypoints.models import chat_template, fast_tokenizer
from entrypoints.runtime.logging import libraries_log_to
from paddle_stacks.errors import RequestError, StackError
from paddle_stacks.jobs import chat_templates, json_files

__all__ = ["load", "load_for_inference", "load_tokenizer"]

_CONFIG, _WHOLE = "tokenizer_config.json", "tokenizer.json"
_VOCABULARY = "vocab.json"
_FILES = (_CONFIG, "special_tokens_map.json", "added_tokens.json", _WHOLE)

# Characters. The search for special tokens takes minutes to build for one of 100,000 characters
# (tokenizers 0.19); real ones have about thirty.
_LONGEST = 1024

# Loading accepts any value of a configuration; some values fail only when they are used.
_TRIAL = "a 1\n"


def load(folder: Path) -> Any:
    """Return PaddleNLP's tokenizer of a model, with a :class:`ChatTemplate` if it has one.

    Templates in PaddleNLP's own format, ``chat_template.json``, are left to PaddleNLP.

    Raises:
        RequestError: its files are missing or damaged, a special token is too long, a
            token ID is not a number, or the chat template cannot be compiled.
    """
    _check_files(folder)
    from paddlenlp.transformers import AutoTokenizer

    try:
        # Without a template, because PaddleNLP lacks the Jinja extensions of transformers.
        tokenizer = AutoTokenizer.from_pretrained(str(folder), chat_template=None)
        tokenizer.decode(tokenizer(_TRIAL)["input_ids"])
    except StackError:  # a signal to stop
        raise
    except Exception as error:  # the libraries of tokenizers raise various exceptions
        fault = f"the model's tokenizer cannot be loaded: {type(error).__name__}: {error}"
        raise RequestError(fault, where=str(folder), remedy="fetch the model again") from error
    if not (folder / chat_templates.PADDLE).is_file():
        tokenizer.chat_template = chat_template.load(folder)
    return tokenizer


def load_for_inference(folder: Path) -> Any:
    """Return a model's tokenizer, without PaddleNLP where that is possible.

    Raises:
        RequestError: as :func:`load`.
    """
    _check_files(folder)
    if chat_templates.find(folder) is not None:
        chat_template.start_worker()
    tokenizer = fast_tokenizer.load(folder)
    if tokenizer is None:
        libraries_log_to(None)
        return load(folder)
    tokenizer.chat_template = chat_template.load(folder)
    return tokenizer


def _check_files(folder: Path) -> None:
    """Check what takes long or fails late when a library reads it."""
    if not (folder / _CONFIG).is_file():
        remedy = "get the model again: ./inv fetch NAME --force"
        raise RequestError("the model has no tokenizer", where=str(folder), remedy=remedy)
    _check_special_tokens(folder)
    _check_vocabulary(folder / _VOCABULARY)


def _check_special_tokens(folder: Path) -> None:
    for path in (folder / name for name in _FILES):
        if not path.is_file():
            continue
        document = json_files.read_object(path)
        if path.name == _WHOLE:
            document = {"added_tokens": document.get("added_tokens")}
        elif path.name == _CONFIG:
            document = {key: value for key, value in document.items() if "token" in key}
        longest = max(map(len, _texts(document)), default=0)
        if longest > _LONGEST:
            raise RequestError(
                f"a special token has {longest:,} characters, expected at most {_LONGEST:,}",
                where=str(path),
                remedy="fetch the model again",
            )


def _check_vocabulary(path: Path) -> None:
    """Check values that would otherwise fail only when a token occurs in a text."""
    if not path.is_file():
        return
    if any(type(number) is not int for number in json_files.read_object(path).values()):
        raise RequestError(
            "a token ID is not an integer",
            where=str(path),
            remedy="fetch the model again",
        )


def _texts(document: Any) -> Iterator[str]:
    """Yield the keys and texts in a JSON document."""
    todo = [document]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            todo += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            todo += value


def load_tokenizer(folder: Path, template: Path | None = None, *, chat: bool = True) -> Any:
    """Return a tokenizer with a chat template.

    Args:
        folder: the model's or the tokenizer's folder.
        template: a ``chat_template.json``, or None for the one in the folder.
        chat: false for no chat template.
    """
    tokenizer = load(folder)
    if not chat:
        tokenizer.chat_template = None
    elif template is not None:
        tokenizer.init_chat_template(str(template))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer

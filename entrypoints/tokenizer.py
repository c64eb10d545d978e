"""A model's tokenizer, as PaddleNLP has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paddle_stacks.errors import RequestError

__all__ = ["load"]


def load(folder: Path) -> Any:
    """Return PaddleNLP's tokenizer of a model.

    Raises:
        RequestError: its files are missing or damaged.
    """
    from paddlenlp.transformers import AutoTokenizer

    if not (folder / "tokenizer_config.json").is_file():
        remedy = "get the model again: ./inv fetch NAME --force"
        raise RequestError("the model has no tokenizer", where=str(folder), remedy=remedy)
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # every tokenizer's library has errors of its own
        fault = f"the model's tokenizer cannot be loaded: {type(error).__name__}: {error}"
        raise RequestError(fault, where=str(folder), remedy="fetch the model again") from error

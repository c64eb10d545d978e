"""A tokenizer of a ``tokenizer.json``, without PaddleNLP, which takes seconds to import.

It gives what PaddleNLP's ``PretrainedTokenizerFast`` gives. That class adds special tokens of the
configuration to the vocabulary where they are missing; such tokenizers are left to PaddleNLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddle_stacks.errors import RequestError, StackError
from paddle_stacks.jobs import chat_templates, json_files

__all__ = ["FastTokenizer", "load"]

_CONFIG, _WHOLE = "tokenizer_config.json", "tokenizer.json"
_CLASSES = ("PretrainedTokenizerFast", "PreTrainedTokenizerFast")
_OTHER_FILES = ("special_tokens_map.json", "added_tokens.json", chat_templates.PADDLE)
_SPECIAL = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# Keys of the configuration that are used here, or change nothing about encoding and decoding.
_KEYS = {
    *_SPECIAL,
    *("added_tokens_decoder", "additional_special_tokens", "chat_template"),
    *("clean_up_tokenization_spaces", "model_input_names", "model_max_length"),
    *("padding_side", "tokenizer_class", "truncation_side"),
}


class FastTokenizer:
    """A tokenizer of the ``tokenizers`` library, as inference calls it.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``.
        special_tokens: by their names in the configuration, such as ``eos_token``.

    Attributes:
        special_tokens_map: the special tokens.
        chat_template: the model's; None for none.
    """

    def __init__(self, tokenizer: Any, special_tokens: Mapping[str, str]) -> None:
        self._tokenizer = tokenizer
        self.special_tokens_map = dict(special_tokens)
        self.chat_template: Any = None

    def __call__(
        self, text: str, *, add_special_tokens: bool = True, **_: Any
    ) -> dict[str, list[int]]:
        """Return the tokens of a text as ``input_ids``."""
        encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": list(encoding.ids)}

    def __getattr__(self, name: str) -> Any:
        """Return a special token, or its number, as ``eos_token`` and ``eos_token_id``."""
        token = name.removesuffix("_id")
        if token not in _SPECIAL:
            raise AttributeError(name)
        text = self.special_tokens_map.get(token)
        return text if token == name or text is None else self._tokenizer.token_to_id(text)

    def decode(self, tokens: list[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        """Return the text of tokens."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)
        return text

    def convert_ids_to_tokens(self, token: int) -> str | None:
        """Return the spelling of a token; None where no token has the number."""
        text: str | None = self._tokenizer.id_to_token(token)
        return text

    def get_vocab(self) -> dict[str, int]:
        """Return the numbers of all tokens, by their spelling."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary


def load(folder: Path) -> FastTokenizer | None:
    """Return a model's tokenizer; None where only PaddleNLP can read it.

    Raises:
        RequestError: its files are damaged.
    """
    if not (folder / _WHOLE).is_file() or any((folder / name).is_file() for name in _OTHER_FILES):
        return None
    config = json_files.read_object(folder / _CONFIG)
    special = {name: _content(config[name]) for name in _SPECIAL if config.get(name) is not None}
    if config.get("tokenizer_class") not in _CLASSES or not config.keys() <= _KEYS:
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / _WHOLE))
    except StackError:  # a signal to stop
        raise
    except Exception as error:  # the library has a single, plain Exception
        fault = f"the model's tokenizer cannot be loaded: {type(error).__name__}: {error}"
        raise RequestError(fault, where=str(folder), remedy="fetch the model again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    listed = config.get("added_tokens_decoder") or {}
    tokens = [*special.values(), *map(_content, config.get("additional_special_tokens") or [])]
    tokens += map(_content, listed.values() if isinstance(listed, dict) else [None])
    if not added.issuperset(tokens):
        return None
    return FastTokenizer(tokenizer, {name: text for name, text in special.items() if text})


def _content(token: Any) -> str | None:
    """Return the text of a token in a configuration: a string, or an object with a content."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None

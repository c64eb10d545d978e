"""Conversion of prompts to tokens and back: tokenizer, chat template and end tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from entrypoints.models.chat_template import ChatTemplateError, variables_of
from entrypoints.models.tokenizer import load_for_inference
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.prompts import Prompt, listed

__all__ = ["Text", "load"]

_SPACE = "\u2581"  # in sentencepiece's spelling
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
# The spelling of bytes in byte-level tokenizers (GPT-2's and its successors'): printable bytes
# as in Latin-1, the others as the characters from 256 on.
_BYTES = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + at): byte for at, byte in enumerate(b for b in range(256) if b not in _PRINTED)
}
_LONG = 32  # characters per token of context beyond which the longest token is looked up


class Text:
    """A model's tokenizer.

    Args:
        tokenizer: PaddleNLP's.
        folder: the model's, for messages.
        context: the model's context, in tokens.
        raw: whether prompts are passed unchanged.
        vocabulary_size: rows of the model's embedding; None for no check.

    Attributes:
        ends: the tokens that end an answer.
    """

    def __init__(
        self,
        tokenizer: Any,
        folder: Path,
        context: int,
        raw: bool,
        vocabulary_size: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._folder = folder
        self._context = context
        self._raw = raw
        self._vocabulary_size = vocabulary_size
        self.ends = _ends(folder, tokenizer)
        self.has_template = tokenizer.chat_template is not None

    def tokens(self, prompt: Prompt) -> list[int]:
        """Return a prompt's tokens, including the beginning of the answer.

        Raises:
            RequestError: it exceeds the model's context, or the model's chat template
                rejects it.
        """
        plain = self._raw or not self.has_template
        text = self._plain(prompt) if plain else self._rendered(prompt)
        self._check_length(len(text) // self._longest_token(text), prompt, "at least ")
        # A template writes the special tokens itself.
        encoded = self._tokenizer(text, add_special_tokens=plain, return_attention_mask=False)
        tokens: list[int] = list(encoded["input_ids"])
        self._check_length(len(tokens), prompt, "")
        self._check_ids(tokens, prompt)
        return tokens

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the tokens of a text, without a chat template.

        Raises:
            RequestError: it is so long that it cannot fit into the model's context.
        """
        self._check_length(len(text) // self._longest_token(text), None, "at least ")
        encoded = self._tokenizer(
            text, add_special_tokens=add_special_tokens, return_attention_mask=False
        )
        return list(encoded["input_ids"])

    def special_tokens(self) -> dict[str, str | None]:
        """Return the texts of the tokens that begin, end and pad a text."""
        names = ("bos_token", "eos_token", "pad_token")
        return {name: getattr(self._tokenizer, name, None) for name in names}

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, without special ones."""
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def decode_all(self, tokens: list[int]) -> str:
        """Return the text of tokens, including special ones."""
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token, which may be part of a character.

        Special tokens, such as the end token, are spelt by their names.
        """
        piece: str = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # a row of the embedding without a token
            return b""
        if match := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
            return bytes([int(match[1], 16)])
        if self._byte_level and all(character in _BYTES for character in piece):
            return bytes(_BYTES[character] for character in piece)
        return piece.replace(_SPACE, " ").encode("utf-8", errors="replace")

    @cached_property
    def _byte_level(self) -> bool:
        # The spelling of a space, which is a token of every byte-level tokenizer.
        return "\u0120" in self._tokenizer.get_vocab()

    def _plain(self, prompt: Prompt) -> str:
        if prompt.plain and len(prompt.messages) == 1:
            return prompt.messages[0].content
        if self._raw:
            message, remedy = "--raw takes prompts, not messages", 'write {"id": …, "prompt": "…"}'
        else:
            message = "the model has no chat template, so it accepts neither messages nor --system"
            remedy = "give a plain prompt, or put the model's template into chat_template.jinja"
        raise RequestError(message, where=prompt.where or str(self._folder), remedy=remedy)

    def _rendered(self, prompt: Prompt) -> str:
        template = self._tokenizer.chat_template
        if hasattr(template, "render_conversation"):  # PaddleNLP's own format
            return self._rendered_by_paddle(prompt)
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        try:
            text: str = template.render(
                messages=messages, add_generation_prompt=True, **variables_of(self._tokenizer)
            )
        except ChatTemplateError as error:
            raise RequestError(
                f"the model's chat template fails: {error}",
                where=prompt.where or str(self._folder),
                remedy="write the messages as the model's documentation requires, or use --raw",
            ) from None
        return text

    def _rendered_by_paddle(self, prompt: Prompt) -> str:
        """Render with a template in PaddleNLP's own format, ``chat_template.json``."""
        messages, context = prompt.messages, {}
        self._check_turns(prompt)
        if messages[0].role == "system":
            if "system" not in (self._tokenizer.chat_template.system or ""):
                message = "the model's chat template has a fixed system message"
                raise RequestError(
                    message,
                    where=prompt.where or str(self._folder),
                    remedy="put the system message's text into the first message of the user",
                )
            context, messages = {"system": messages[0].content}, messages[1:]
        turns = [[m.content for m in messages[at : at + 2]] for at in range(0, len(messages), 2)]
        text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, context_data=context)
        return text

    def _check_turns(self, prompt: Prompt) -> None:
        """Check that the messages of user and assistant alternate; these templates have pairs."""
        roles = [m.role for m in prompt.messages]
        turns = roles[1:] if roles[0] == "system" else roles
        if any(role != ("user", "assistant")[at % 2] for at, role in enumerate(turns)) or (
            len(turns) % 2 == 0
        ):
            message = (
                "the model's chat template requires alternating user and assistant messages,"
                " the last one of the user"
            )
            raise RequestError(
                message,
                where=prompt.where or str(self._folder),
                remedy="remove the messages that do not alternate, or use --raw",
            )

    def _check_length(self, length: int, prompt: Prompt | None, about: str) -> None:
        if length >= self._context:
            raise RequestError(
                f"the prompt is {about}{length} tokens long, and the model's context"
                f" {self._context}, the answer included",
                where=prompt.where if prompt else "",
                remedy="shorten it",
            )

    def _check_ids(self, tokens: list[int], prompt: Prompt) -> None:
        size = self._vocabulary_size
        if size is not None and max(tokens, default=0) >= size:
            raise RequestError(
                f"the prompt has the token {max(tokens)}, and the model's vocabulary is {size}",
                where=prompt.where or str(self._folder),
                remedy="get the tokenizer that belongs to the model",
            )

    def _longest_token(self, text: str) -> int:
        """Return an upper bound of the characters of a token.

        Tokenizing a long text takes long, so one that cannot fit is rejected by its length.
        """
        if len(text) < self._context * _LONG:
            return len(text) + 1
        return max(map(len, self._tokenizer.get_vocab()))


def load(folder: Path, context: int, *, raw: bool) -> Text:
    """Return the tokenizer of a model.

    Raises:
        RequestError: its files are missing or damaged.
    """
    config = json_files.read_object(folder / "config.json")
    return Text(load_for_inference(folder), folder, context, raw, config.get("vocab_size"))


def all_tokens(text: Text, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the tokens of every prompt.

    Raises:
        RequestError: prompts are invalid; up to 20 of them are listed.
    """
    rows: list[list[int]] = []
    problems: list[Problem] = []
    for prompt in prompts:
        try:
            rows.append(text.tokens(prompt))
        except RequestError as error:
            problems.extend(error.problems)
    if problems:
        raise RequestError(listed(problems, "bad prompts"))
    return rows


def _ends(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Return the end tokens from generation_config.json, else config.json, and the tokenizer.

    Llama 3 has a list of them.
    """
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        end = json_files.read_object(path).get("eos_token_id")
        numbers = end if isinstance(end, list) else [] if end is None else [end]
        if not all(type(number) is int for number in numbers):
            raise RequestError(
                f"eos_token_id is {end!r:.40}",
                where=str(path),
                remedy="fetch the model again: ./inv fetch NAME --force",
            )
        ends |= set(numbers)
        if ends:
            break
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    return frozenset(ends)

"""OpenAI's objects, made of what the engine says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from entrypoints.inference.sampling import Chance, Choice
from entrypoints.serving.work import Piece

__all__ = ["Answer", "Chat", "Completion", "Header", "usage_of"]

TokenBytes = Callable[[int], bytes]


@dataclass(frozen=True)
class Header:
    """What every object of a response begins with.

    Args:
        id: of the response.
        created: seconds since 1970.
        model: the model's name.
        fingerprint: of the weights.
    """

    id: str
    created: int
    model: str
    fingerprint: str

    def object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Return an object of a kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }


@dataclass
class Answer:
    """One answer as far as it has come.

    Attributes:
        text: of it.
        choices: its tokens, where probabilities were asked for.
        tokens: how many tokens it has.
        finish_reason: why it ended; empty while it goes on.
    """

    text: str = ""
    choices: list[Choice] = field(default_factory=list)
    tokens: int = 0
    finish_reason: str = ""

    def add(self, piece: Piece) -> None:
        """Take in what comes next."""
        self.text += piece.text
        self.choices += piece.choices
        self.tokens = piece.tokens
        self.finish_reason = piece.finish_reason


def usage_of(prompt_tokens: int, answers: Sequence[Answer]) -> dict[str, int]:
    """Return how many tokens a response took."""
    made = sum(answer.tokens for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": made,
        "total_tokens": prompt_tokens + made,
    }


class Chat:
    """The objects of ``/v1/chat/completions``.

    Args:
        header: of the response.
        token_bytes: returns a token's bytes.
        likeliest: how many of the likeliest tokens are told; None for no probabilities.
    """

    def __init__(self, header: Header, token_bytes: TokenBytes, likeliest: int | None) -> None:
        self._header = header
        self._bytes = token_bytes
        self._likeliest = likeliest

    def whole(self, answers: Sequence[Answer], usage: dict[str, int]) -> dict[str, Any]:
        """Return the response."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": self._logprobs(answer.choices),
                "finish_reason": answer.finish_reason,
            }
            for index, answer in enumerate(answers)
        ]
        return self._header.object("chat.completion", choices, usage=usage)

    def first(self, index: int) -> dict[str, Any]:
        """Return what a stream begins an answer with."""
        return self._chunk(index, {"role": "assistant", "content": "", "refusal": None}, (), "")

    def chunks(self, index: int, piece: Piece, before: Answer) -> list[dict[str, Any]]:
        """Return what a stream says of a piece.

        Args:
            index: of the answer in the response.
            piece: of it.
            before: the answer so far.
        """
        made = []
        if piece.text or piece.choices:
            made.append(self._chunk(index, {"content": piece.text}, piece.choices, ""))
        if piece.finish_reason:
            made.append(self._chunk(index, {}, (), piece.finish_reason))
        return made

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return what a stream ends with where usage was asked for."""
        return self._header.object("chat.completion.chunk", [], usage=usage)

    def _chunk(
        self, index: int, delta: dict[str, Any], choices: Sequence[Choice], reason: str
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(choices) if choices else None,
            "finish_reason": reason or None,
        }
        return self._header.object("chat.completion.chunk", [choice])

    def _logprobs(self, choices: Sequence[Choice]) -> dict[str, Any] | None:
        if self._likeliest is None:
            return None
        content = [
            {
                **self._chance(choice.chosen),
                "top_logprobs": [self._chance(chance) for chance in choice.likeliest],
            }
            for choice in choices
        ]
        return {"content": content, "refusal": None}

    def _chance(self, chance: Chance) -> dict[str, Any]:
        spelt = self._bytes(chance.token)
        return {
            "token": spelt.decode("utf-8", errors="replace"),
            "logprob": chance.logprob,
            "bytes": list(spelt),
        }


class Completion:
    """The objects of ``/v1/completions``; arguments as :class:`Chat`'s."""

    def __init__(self, header: Header, token_bytes: TokenBytes, likeliest: int | None) -> None:
        self._header = header
        self._bytes = token_bytes
        self._likeliest = likeliest

    def whole(self, answers: Sequence[Answer], usage: dict[str, int]) -> dict[str, Any]:
        """Return the response."""
        choices = [
            self._choice(index, answer.text, answer.choices, 0, answer.finish_reason)
            for index, answer in enumerate(answers)
        ]
        return self._header.object("text_completion", choices, usage=usage)

    def first(self, index: int) -> None:
        """Return nothing: a stream begins with the text."""

    def chunks(self, index: int, piece: Piece, before: Answer) -> list[dict[str, Any]]:
        """Return what a stream says of a piece; arguments as :meth:`Chat.chunks`."""
        offset = len(self._spelt(before.choices))
        choice = self._choice(index, piece.text, piece.choices, offset, piece.finish_reason)
        return [self._header.object("text_completion", [choice])]

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return what a stream ends with where usage was asked for."""
        return self._header.object("text_completion", [], usage=usage)

    def _choice(
        self, index: int, text: str, choices: Sequence[Choice], offset: int, reason: str
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(choices, offset),
            "finish_reason": reason or None,
        }

    def _logprobs(self, choices: Sequence[Choice], offset: int) -> dict[str, Any] | None:
        if self._likeliest is None:
            return None
        tokens = [self._token(choice.chosen.token) for choice in choices]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [choice.chosen.logprob for choice in choices],
            "top_logprobs": [
                {self._token(chance.token): chance.logprob for chance in choice.likeliest}
                for choice in choices
            ]
            if self._likeliest
            else None,
            "text_offset": offsets,
        }

    def _token(self, token: int) -> str:
        """Return a token as text; one that is part of a character as its bytes, as vLLM does."""
        spelt = self._bytes(token)
        try:
            return spelt.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)

    def _spelt(self, choices: Sequence[Choice]) -> str:
        return "".join(self._token(choice.chosen.token) for choice in choices)

"""OpenAI's objects, made of what the engine says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from entrypoints.inference.sampling import Chance, Choice
from entrypoints.serving.work import Piece

__all__ = ["Answer", "Chat", "Completion", "Echo", "Header", "usage_of"]

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

    @property
    def mean_logprob(self) -> float:
        """The mean logprob of its tokens; an answer without tokens comes last."""
        if not self.choices:
            return -math.inf
        return sum(choice.chosen.logprob for choice in self.choices) / len(self.choices)


def usage_of(prompt_tokens: int, answers: Sequence[Answer]) -> dict[str, int]:
    """Return how many tokens a response took."""
    completion_tokens = sum(answer.tokens for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
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
        chunks = []
        if piece.text or piece.choices:
            chunks.append(self._chunk(index, {"content": piece.text}, piece.choices, ""))
        if piece.finish_reason:
            chunks.append(self._chunk(index, {}, (), piece.finish_reason))
        return chunks

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


@dataclass
class Echo:
    """A prompt that its answers begin with.

    Args:
        text: of the prompt.
        tokens: of the prompt.
        choices: its tokens from the second on, where logprobs are wanted.
    """

    text: str
    tokens: Sequence[int]
    choices: Sequence[Choice] = ()


class Completion:
    """The objects of ``/v1/completions``.

    Args:
        header: of the response.
        token_bytes: returns a token's bytes.
        likeliest: the number of likeliest tokens at each position; None for no logprobs.
        echoes: of the prompts; empty where the answers do not repeat them.
        n: answers to each prompt.
    """

    def __init__(
        self,
        header: Header,
        token_bytes: TokenBytes,
        likeliest: int | None,
        echoes: Sequence[Echo] = (),
        n: int = 1,
    ) -> None:
        self._header = header
        self._bytes = token_bytes
        self._likeliest = likeliest
        self._echoes = echoes
        self._n = n

    def whole(self, answers: Sequence[Answer], usage: dict[str, int]) -> dict[str, Any]:
        """Return the response."""
        choices = []
        for index, answer in enumerate(answers):
            text, logprobs = answer.text, self._logprobs(answer.choices, 0)
            if echo := self._echo(index):
                text = echo.text + text
                logprobs = self._echoed_logprobs(echo, answer.choices)
            choices.append(self._choice(index, text, logprobs, answer.finish_reason))
        return self._header.object("text_completion", choices, usage=usage)

    def first(self, index: int) -> dict[str, Any] | None:
        """Return what a stream begins an answer with: the prompt, where it is repeated."""
        if not (echo := self._echo(index)):
            return None
        choice = self._choice(index, echo.text, self._echoed_logprobs(echo, ()), "")
        return self._header.object("text_completion", [choice])

    def chunks(self, index: int, piece: Piece, before: Answer) -> list[dict[str, Any]]:
        """Return what a stream says of a piece; arguments as :meth:`Chat.chunks`."""
        logprobs = None
        if self._likeliest is not None:
            echo = self._echo(index)
            offset = len(self._spelt(echo.tokens)) if echo else 0
            offset += len(self._spelt([choice.chosen.token for choice in before.choices]))
            logprobs = self._logprobs(piece.choices, offset)
        choice = self._choice(index, piece.text, logprobs, piece.finish_reason)
        return [self._header.object("text_completion", [choice])]

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return what a stream ends with where usage was asked for."""
        return self._header.object("text_completion", [], usage=usage)

    def _echo(self, index: int) -> Echo | None:
        return self._echoes[index // self._n] if self._echoes else None

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": reason or None,
        }

    def _echoed_logprobs(self, echo: Echo, choices: Sequence[Choice]) -> dict[str, Any] | None:
        """Return the logprobs of a prompt and its answer; null for the first token."""
        if self._likeliest is None:
            return None
        first = self._token(echo.tokens[0])
        rest = self._logprobs([*echo.choices, *choices], len(first))
        assert rest is not None
        top = rest["top_logprobs"]
        return {
            "tokens": [first, *rest["tokens"]],
            "token_logprobs": [None, *rest["token_logprobs"]],
            "top_logprobs": None if top is None else [None, *top],
            "text_offset": [0, *rest["text_offset"]],
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

    def _spelt(self, tokens: Sequence[int]) -> str:
        return "".join(map(self._token, tokens))

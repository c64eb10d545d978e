"""OpenAI's response objects, built from the engine's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from entrypoints.inference.sampling import SampledToken, TokenLogprob
from entrypoints.serving.request import RequestOutput

__all__ = ["Answer", "Chat", "Completion", "Echo", "Header", "usage_of"]

TokenBytes = Callable[[int], bytes]


@dataclass(frozen=True)
class Header:
    """The common fields of a response's objects.

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
        """Return a response object."""
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
    """An answer so far.

    Attributes:
        text: its text.
        choices: its tokens, if log probabilities were requested.
        tokens: the number of its tokens.
        finish_reason: empty while it is unfinished.
    """

    text: str = ""
    choices: list[SampledToken] = field(default_factory=list)
    tokens: int = 0
    finish_reason: str = ""

    def add(self, output: RequestOutput) -> None:
        """Append an output."""
        self.text += output.text
        self.choices += output.choices
        self.tokens = output.tokens
        self.finish_reason = output.finish_reason

    @property
    def mean_logprob(self) -> float:
        """The mean logprob of its tokens; minus infinity without tokens."""
        if not self.choices:
            return -math.inf
        return sum(choice.chosen.logprob for choice in self.choices) / len(self.choices)


def usage_of(prompt_tokens: int, answers: Sequence[Answer]) -> dict[str, int]:
    """Return the token counts of a response."""
    completion_tokens = sum(answer.tokens for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


@dataclass(frozen=True)
class _Objects:
    """Builds the objects of a response.

    Args:
        header: their common fields.
        token_bytes: returns a token's bytes.
        top_logprobs: the number of most probable tokens per position; None for no logprobs.
    """

    header: Header
    token_bytes: TokenBytes
    top_logprobs: int | None

    chunk_kind: ClassVar[str]

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the last object of a stream if usage was requested."""
        return self.header.object(self.chunk_kind, [], usage=usage)


@dataclass(frozen=True)
class Chat(_Objects):
    """The objects of ``/v1/chat/completions``."""

    chunk_kind = "chat.completion.chunk"

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
        return self.header.object("chat.completion", choices, usage=usage)

    def first(self, index: int) -> dict[str, Any]:
        """Return the first object of an answer in a stream."""
        return self._chunk(index, {"role": "assistant", "content": "", "refusal": None}, (), "")

    def chunks(self, index: int, output: RequestOutput, before: Answer) -> list[dict[str, Any]]:
        """Return the objects of a new output in a stream.

        Args:
            index: the answer's number in the response.
            output: the output.
            before: the answer so far.
        """
        chunks = []
        if output.text or output.choices:
            chunks.append(self._chunk(index, {"content": output.text}, output.choices, ""))
        if output.finish_reason:
            chunks.append(self._chunk(index, {}, (), output.finish_reason))
        return chunks

    def _chunk(
        self, index: int, delta: dict[str, Any], choices: Sequence[SampledToken], reason: str
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(choices) if choices else None,
            "finish_reason": reason or None,
        }
        return self.header.object(self.chunk_kind, [choice])

    def _logprobs(self, choices: Sequence[SampledToken]) -> dict[str, Any] | None:
        if self.top_logprobs is None:
            return None
        content = [
            {
                **self._logprob(choice.chosen),
                "top_logprobs": [self._logprob(logprob) for logprob in choice.top_logprobs],
            }
            for choice in choices
        ]
        return {"content": content, "refusal": None}

    def _logprob(self, logprob: TokenLogprob) -> dict[str, Any]:
        spelt = self.token_bytes(logprob.token)
        return {
            "token": spelt.decode("utf-8", errors="replace"),
            "logprob": logprob.logprob,
            "bytes": list(spelt),
        }


@dataclass
class Echo:
    """A prompt that is repeated in its answers.

    Args:
        text: of the prompt.
        tokens: of the prompt.
        choices: its tokens from the second on, if logprobs were requested.
    """

    text: str
    tokens: Sequence[int]
    choices: Sequence[SampledToken] = ()


@dataclass(frozen=True)
class Completion(_Objects):
    """The objects of ``/v1/completions``.

    Args:
        header: their common fields.
        token_bytes: returns a token's bytes.
        top_logprobs: the number of most probable tokens per position; None for no logprobs.
        echoes: of the prompts; empty if the answers do not repeat them.
        n: answers to each prompt.
    """

    echoes: Sequence[Echo] = ()
    n: int = 1

    chunk_kind = "text_completion"

    def whole(self, answers: Sequence[Answer], usage: dict[str, int]) -> dict[str, Any]:
        """Return the response."""
        choices = []
        for index, answer in enumerate(answers):
            text, logprobs = answer.text, self._logprobs(answer.choices, 0)
            if echo := self._echo(index):
                text = echo.text + text
                logprobs = self._echoed_logprobs(echo, answer.choices)
            choices.append(self._choice(index, text, logprobs, answer.finish_reason))
        return self.header.object(self.chunk_kind, choices, usage=usage)

    def first(self, index: int) -> dict[str, Any] | None:
        """Return the first object of an answer in a stream: the prompt, if it is repeated."""
        if not (echo := self._echo(index)):
            return None
        choice = self._choice(index, echo.text, self._echoed_logprobs(echo, ()), "")
        return self.header.object(self.chunk_kind, [choice])

    def chunks(self, index: int, output: RequestOutput, before: Answer) -> list[dict[str, Any]]:
        """Return the objects of a new output in a stream; arguments as in :meth:`Chat.chunks`."""
        logprobs = None
        if self.top_logprobs is not None:
            echo = self._echo(index)
            offset = len(self._spelt(echo.tokens)) if echo else 0
            offset += len(self._spelt([choice.chosen.token for choice in before.choices]))
            logprobs = self._logprobs(output.choices, offset)
        choice = self._choice(index, output.text, logprobs, output.finish_reason)
        return [self.header.object(self.chunk_kind, [choice])]

    def _echo(self, index: int) -> Echo | None:
        return self.echoes[index // self.n] if self.echoes else None

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": reason or None,
        }

    def _echoed_logprobs(
        self, echo: Echo, choices: Sequence[SampledToken]
    ) -> dict[str, Any] | None:
        """Return the logprobs of a prompt and its answer; null for the first token."""
        if self.top_logprobs is None:
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

    def _logprobs(self, choices: Sequence[SampledToken], offset: int) -> dict[str, Any] | None:
        if self.top_logprobs is None:
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
                {self._token(logprob.token): logprob.logprob for logprob in choice.top_logprobs}
                for choice in choices
            ]
            if self.top_logprobs
            else None,
            "text_offset": offsets,
        }

    def _token(self, token: int) -> str:
        """Return a token as text; an incomplete character as bytes, like vLLM."""
        spelt = self.token_bytes(token)
        try:
            return spelt.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)

    def _spelt(self, tokens: Sequence[int]) -> str:
        return "".join(map(self._token, tokens))

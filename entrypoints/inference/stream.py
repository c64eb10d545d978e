"""Incremental detokenization: whole characters only, and never beyond a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["TextStream"]

_HALF = "\N{REPLACEMENT CHARACTER}"  # the decoding of an incomplete character


class TextStream:
    """The text of one answer.

    A character can consist of several tokens, and a token's text can depend on the previous
    one (sentencepiece's spaces). Therefore tokens are decoded together with those before them,
    and text is held back while it ends within a character or could become a stop text.

    Args:
        decode: returns the text of a sequence of tokens.
        stops: texts that end the answer.
        min_tokens: tokens before which stop texts do not count.
        include_stop: whether the text includes the stop text that ended it.

    Attributes:
        text: the text returned so far.
        stopped: whether a stop text was reached.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stops: Sequence[str] = (),
        *,
        min_tokens: int = 0,
        include_stop: bool = False,
    ) -> None:
        self.text = ""
        self.stopped = False
        self._decode = decode
        self._stops = stops
        self._min_tokens = min_tokens
        self._include_stop = include_stop
        self._tokens: list[int] = []
        self._begin = 0  # of the tokens that are decoded again for context
        self._done = 0  # tokens whose text is known
        self._held = ""  # decoded, but possibly the beginning of a stop text

    def push(self, token: int) -> str:
        """Add the next token and return the text that is now final; it may be empty."""
        if self.stopped:
            return ""
        self._tokens.append(token)
        context, text = self._context_and_text()
        if text.endswith(_HALF) or len(text) <= len(context):
            return ""
        self._begin, self._done = self._done, len(self._tokens)
        return self._release(text[len(context) :])

    def finish(self) -> str:
        """Return the held-back text at the end of the answer.

        An incomplete character, left by an answer that was cut off, is dropped.
        """
        if self.stopped:
            return ""
        context, text = self._context_and_text()
        self._done = len(self._tokens)
        piece = self._release(text[len(context) :].rstrip(_HALF))
        if self.stopped:
            return piece
        rest, self._held = self._held, ""
        self.text += rest
        return piece + rest

    def _context_and_text(self) -> tuple[str, str]:
        context = self._tokens[self._begin : self._done]
        return self._decode(context), self._decode(self._tokens[self._begin :])

    def _release(self, piece: str) -> str:
        self._held += piece
        if len(self._tokens) < self._min_tokens:
            certain, self._held = self._held, ""
            self.text += certain
            return certain
        matches = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if matches:
            self.stopped = True
            at, stop = min(matches, key=lambda each: each[0])
            certain = self._held[: at + len(stop) * self._include_stop]
            self._held = ""
        else:
            certain = self._held[: len(self._held) - self._beginning_of_stop()]
            self._held = self._held[len(certain) :]
        self.text += certain
        return certain

    def _beginning_of_stop(self) -> int:
        """Return the length of the longest suffix of the held text that a stop text starts with."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest

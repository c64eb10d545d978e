"""A fake model for the server's tests, without weights and with predictable answers.

``FakeNetwork`` stores the tokens of every sequence and computes the next logits from all of them,
so that an answer shows whether sequences were mixed up or a token was lost.
``FakeTokenizer`` has a token for every byte: many characters are several tokens.

Words in a prompt: ``forever`` makes an endless answer, ``crash`` an error in the prefill, and
``stumble`` an error at the third token.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import jinja2
import numpy as np

from entrypoints.inference.text import Text

CONTEXT, VOCABULARY = 2048, 259
PAD, BEGIN, END, FIRST = 0, 1, 2, 3
SCRIPT = "The quick brown fox 狐狸 jumps over the lazy dog 🐶, été comme hiver. "
TEMPLATE = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ': ' + m['content'] + '</s>' }}{% endfor %}"
    "{% if messages[0]['content'] == 'divide by zero' %}{{ 1 // 0 }}{% endif %}{{ '<s>' }}"
)
_SPECIAL = {"<pad>": PAD, "<s>": BEGIN, "</s>": END}
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]


def spelt(byte: int) -> str:
    """Return a byte as GPT-2 spells it."""
    return chr(byte) if byte in _PRINTED else chr(256 + _OTHERS.index(byte))


class FakeTokenizer:
    eos_token_id = END
    bos_token, eos_token, pad_token = "<s>", "</s>", "<pad>"
    chat_template = jinja2.Template(TEMPLATE)
    special_tokens_map: ClassVar[dict[str, str]] = {}

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        tokens: list[int] = []
        while text:
            special = next((s for s in _SPECIAL if text.startswith(s)), "")
            if special:
                tokens.append(_SPECIAL[special])
                text = text[len(special) :]
            else:
                tokens += [byte + FIRST for byte in text[0].encode()]
                text = text[1:]
        return {"input_ids": tokens}

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool) -> str:
        assert not tokenize
        return self.chat_template.render(messages=messages)

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False, **_: object) -> str:
        names = {number: name.encode() for name, number in _SPECIAL.items()}
        special = dict.fromkeys(names, b"") if skip_special_tokens else names
        return b"".join(bytes([t - FIRST]) if t >= FIRST else special[t] for t in tokens).decode(
            "utf-8", errors="replace"
        )

    def get_vocab(self) -> dict[str, int]:
        return {**_SPECIAL, **{spelt(byte): byte + FIRST for byte in range(256)}}

    def convert_ids_to_tokens(self, token: int) -> str:
        return next(name for name, number in self.get_vocab().items() if number == token)


def text(*, raw: bool = True, context: int = CONTEXT) -> Text:
    return Text(FakeTokenizer(), Path("/no/such/folder"), context, raw)


class FakeBatch:
    """Running sequences with all of their tokens."""

    def __init__(self, network: FakeNetwork, rows: int) -> None:
        self._network = network
        self.texts: list[list[int]] = [[] for _ in range(rows)]
        self._columns = 0
        self.logits = np.zeros((rows, VOCABULARY), dtype=np.float32)

    @property
    def columns(self) -> int:
        return self._columns

    def read(self, tokens: np.ndarray, counts: np.ndarray) -> None:
        assert tokens.shape == counts.shape and tokens.shape[0] == len(self.texts)
        self._network.calls.append(("read", tokens.size))
        for row, new, there in zip(self.texts, tokens, counts, strict=True):
            row += [int(token) for token, is_there in zip(new, there, strict=True) if is_there]
        self._columns += tokens.shape[1]
        self._look()

    def read_all(self, tokens: np.ndarray) -> np.ndarray:
        rows = []
        for column in tokens.T:
            self.read(column[:, None], np.ones((len(column), 1), dtype=bool))
            rows.append(self.logits)
        return np.stack(rows, axis=1).reshape(tokens.size, -1)

    def step(self, tokens: Sequence[int]) -> None:
        self._network.calls.append(("step", len(tokens)))
        if self._network.step_seconds:
            time.sleep(self._network.step_seconds)
        for row, token in zip(self.texts, tokens, strict=True):
            row.append(token)
        self._columns += 1
        self._look()

    def keep(self, rows: Sequence[int]) -> None:
        self.texts = [list(self.texts[at]) for at in rows]
        self.logits = self.logits[list(rows)]
        self._columns = max(map(len, self.texts))

    def join(self, other: FakeBatch) -> None:
        self.texts += other.texts
        self.logits = np.concatenate([self.logits, other.logits])
        self._columns = max(self._columns, other.columns)

    def _look(self) -> None:
        self.logits = np.stack([self._network.logits(tuple(row)) for row in self.texts])


class FakeNetwork:
    """Args:
    step_seconds: how long a step takes.
    """

    def __init__(self, step_seconds: float = 0.0) -> None:
        self.step_seconds = step_seconds
        self.calls: list[tuple[str, int]] = []

    def begin(self, rows: int) -> FakeBatch:
        return FakeBatch(self, rows)

    def logits(self, history: tuple[int, ...]) -> np.ndarray:
        # The template's last word marks where the answer begins; a plain text has no such word.
        marked = BEGIN in history
        start = len(history) - history[::-1].index(BEGIN) if marked else 0
        prompt = bytes(token - FIRST for token in history[:start] if token >= FIRST)
        read = prompt if marked else bytes(token - FIRST for token in history if token >= FIRST)
        if b"crash" in read or (b"stumble" in read and len(history) - start == 3):
            raise RuntimeError("injected fault of the fake network")
        digest = zlib.crc32(str(history).encode())
        scores = np.random.default_rng(digest).normal(size=VOCABULARY).astype(np.float32)
        scores[[PAD, BEGIN, END]] = -50
        spoken = len(history) - start
        if marked and spoken >= self.length(prompt):
            scores[END] = 60
        else:
            scores[self.script(prompt)[spoken % len(SCRIPT.encode())] + FIRST] += 9
        return scores

    @staticmethod
    def length(prompt: bytes) -> int:
        """Return the number of tokens of the greedy answer to a prompt."""
        return 10**9 if b"forever" in prompt else 20 + zlib.crc32(prompt) % 60

    @staticmethod
    def script(prompt: bytes) -> bytes:
        """Return the text that an answer repeats; it starts with a complete character."""
        at = zlib.crc32(prompt[::-1]) % len(SCRIPT)
        return (SCRIPT[at:] + SCRIPT[:at]).encode()

"""Request bodies nobody thought of: a request or a 400, in bounded time and memory.

The bodies are made from a seed, the same ones every time; ``FUZZ_SEED`` and ``FUZZ_EXAMPLES``
choose others, and more.
"""

from __future__ import annotations

import json
import os
import random
import time
import tracemalloc
from typing import Any

import pytest

from entrypoints.serving import protocol
from entrypoints.serving.errors import ApiError
from entrypoints.serving.middleware import MAX_BODY_BYTES
from entrypoints.serving.preprocess import EncodedPrompt, RequestLimits, make_requests

SEED = int(os.environ.get("FUZZ_SEED", "13"))
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
SECONDS, MEMORY = 3.0, 128 * 2**20

KINDS: tuple[Any, ...] = (
    protocol.ChatRequest,
    protocol.CompletionRequest,
    protocol.TokenizeRequest,
    protocol.DetokenizeRequest,
)
FIELDS = sorted({name for kind in KINDS for name in kind.model_fields} | {"x", "tools", "user"})
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 16, 0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63),
    *(10**400, "", "x", "\u202e", "\x00", "a" * 3000, [], {}, [[]], [None], [0] * 300, ["a"] * 9),
    *([[1, 2], [3]], {"5": 1}, {"include_usage": True}, {"type": "text"}),
)
BOUNDS = RequestLimits(
    context=64,
    vocabulary=32,
    prompt_tokens=63,
    new_tokens=16,
    cache_tokens=64,
    max_num_seqs=4,
    seconds=1,
)


def message(pick: random.Random) -> Any:
    if (chance := pick.random()) < 0.02:
        return pick.choice(VALUES)
    if chance < 0.8:
        return {"role": "user", "content": "hello"}
    content = pick.choice(["hello", None, [{"type": "text", "text": "x"}], pick.choice(VALUES)])
    made = {"role": pick.choice(["user", "assistant", "system", "tool"]), "content": content}
    for _ in range(pick.randrange(3)):
        made[pick.choice(["tool_calls", "refusal", "name", "zzz"])] = pick.choice(VALUES)
    return made


def body(pick: random.Random) -> bytes:
    """Return a body that may be right, with up to five fields that may not be."""
    made: dict[str, Any] = {"model": "m"}
    made["messages"] = [message(pick) for _ in range(pick.choice([1, 1, 2, 9]))]
    made["prompt"] = pick.choice(["text", [1, 2, 3], ["a", "b"], [[1], [2, 3]]])
    made["tokens"] = [1, 2]
    for _ in range(pick.randrange(4)):
        made[pick.choice(FIELDS)] = pick.choice(VALUES)
    kept = {name: value for name, value in made.items() if pick.random() < 0.95}
    if pick.random() < 0.5:  # a text, or a conversation: not both
        kept.pop("prompt", None)
    raw = bytearray(json.dumps(kept).encode())
    for _ in range(pick.choice([0, 0, 0, 1, 3])):
        at = pick.randrange(len(raw) + 1)
        raw[at : at + pick.randrange(3)] = bytes(pick.randrange(256) for _ in range(2))
    return bytes(raw)


def large(pick: random.Random) -> bytes:
    """Return a body of up to 4 MiB: one small thing again and again, somewhere."""
    item = pick.choice(
        [b"0", b"[]", b"{}", b'""', b"null", b"[0]", b'{"a":0}', b"[[[]]]", b"1e9", b'"\\u0000"']
    )
    field = pick.choice(FIELDS).encode()
    before = b'{"model":"m","%s":' % field + b"[" * pick.choice([1, 2, 50])
    count = pick.choice([1000, 50_000, MAX_BODY_BYTES])
    room = (MAX_BODY_BYTES - len(before) - 100) // (len(item) + 1)
    return before + b",".join([item] * min(count, room)) + b"]" * pick.choice([1, 2, 50]) + b"}"


def check(raw: bytes, kind: Any) -> bool:
    """Parse a body as the server does, and return whether it is a request."""
    try:
        request, unknown = protocol.parse(raw, kind)
        assert len(unknown) <= 100
        if kind in KINDS[:2]:
            prompts = [EncodedPrompt([1])]
            make_requests(request, prompts, BOUNDS, 0.0, lambda number, news: None)
    except ApiError as error:
        assert error.status == 400
        assert 0 < len(error.message) < 1500
        assert error.param is None or len(error.param) <= 300
        json.dumps(error.body())
        return False
    return True


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_small_bodies(kind: Any) -> None:
    pick = random.Random(f"{SEED} {kind.__name__}")
    began = time.process_time()
    right = sum(check(body(pick), kind) for _ in range(10 * EXAMPLES))
    assert time.process_time() - began < SECONDS * EXAMPLES / 10
    assert right > EXAMPLES / 4, "the rest would try little"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_large_bodies(kind: Any) -> None:
    pick = random.Random(f"{SEED} large {kind.__name__}")
    tracemalloc.start()
    try:
        for _ in range(max(EXAMPLES // 6, 1)):
            raw = large(pick)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            began = time.process_time()
            check(raw, kind)
            seconds = time.process_time() - began
            peak = tracemalloc.get_traced_memory()[1] - before
            assert seconds < SECONDS and peak < MEMORY, (raw[:80], seconds, peak)
    finally:
        tracemalloc.stop()

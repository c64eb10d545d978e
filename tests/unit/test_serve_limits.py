"""What one client can do to a server and its other clients: nothing that costs them much."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from entrypoints.serving import middleware
from entrypoints.serving.body import MAX_VALUES
from entrypoints.serving.client_address import ClientAddresses
from entrypoints.serving.errors import ApiError
from entrypoints.serving.metrics import Metrics
from entrypoints.serving.middleware import MAX_BODY_BYTES, AccessRules, Middleware
from entrypoints.serving.protocol import ChatRequest, CompletionRequest, parse
from entrypoints.serving.rate_limit import RateLimit
from paddle_stacks.jobs.serving import Keys
from tests.support.served import Served, serving

CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
JSON = {"Content-Type": "application/json"}
HEAD = f"POST {CHATS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving() as made:
        yield made


def filled(before: bytes, item: bytes, after: bytes, count: int = MAX_BODY_BYTES) -> bytes:
    """Return a body with as many items as fit into the largest one, or ``count``."""
    room = MAX_BODY_BYTES - len(before) - len(after) - len(item)
    return before + (item + b",") * min(room // (len(item) + 1), count) + item + after


CONTENT = (b'{"model":"fake","messages":[{"role":"user","content":[', b"]}]}")
PROMPT = (b'{"model":"fake","prompt":[', b"]}")
COSTLY: dict[str, tuple[str, bytes]] = {
    "zeros as content": (CHATS, filled(CONTENT[0], b"0", CONTENT[1])),
    "fewer zeros": (CHATS, filled(CONTENT[0], b"0", CONTENT[1], MAX_VALUES - 20)),
    "parts": (CHATS, filled(CONTENT[0], b'{"type":"text","text":""}', CONTENT[1], 60_000)),
    "messages": (CHATS, filled(b'{"model":"fake","messages":[', b"{}", b"]}", 100_000)),
    "prompts": (COMPLETIONS, filled(PROMPT[0], b'""', PROMPT[1])),
    "fewer prompts": (COMPLETIONS, filled(PROMPT[0], b'""', PROMPT[1], MAX_VALUES - 20)),
    "lists of tokens": (COMPLETIONS, filled(PROMPT[0], b"[1]", PROMPT[1], 100_000)),
    "tokens, and one that is none": (
        COMPLETIONS,
        filled(PROMPT[0], b"1", b',"x"' + PROMPT[1], MAX_VALUES - 20),
    ),
    "stops": (CHATS, filled(b'{"model":"fake","messages":[],"stop":[', b'""', b"]}", 200_000)),
    "biases": (
        COMPLETIONS,
        b'{"model":"fake","prompt":"a","logit_bias":{%s}}'
        % b",".join(b'"%d":0' % n for n in range(100_000)),
    ),
    "fields": (
        COMPLETIONS,
        b'{"model":"fake","prompt":"a",%s}' % b",".join(b'"k%d":0' % n for n in range(100_000)),
    ),
    "fields of messages": (
        CHATS,
        b'{"model":"fake","messages":[%s]}'
        % b",".join(
            b'{"role":"user","content":"a",%s}'
            % b",".join(b'"k%d":0' % (n * 50 + m) for m in range(50))
            for n in range(2000)
        ),
    ),
    "objects": (CHATS, filled(b"[", b"{}", b"]")),
    "quotes": (CHATS, b'"' * MAX_BODY_BYTES),
    "backslashes": (CHATS, b'["' + b"\\" * (MAX_BODY_BYTES - 4) + b'"]'),
    "digits": (CHATS, b"[" + b"9" * (MAX_BODY_BYTES - 2) + b"]"),
    "depth": (CHATS, b"[" * MAX_BODY_BYTES),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_body_costs_little_whatever_is_in_it(name: str) -> None:
    path, body = COSTLY[name]
    assert len(body) <= MAX_BODY_BYTES
    kind: Any = ChatRequest if path == CHATS else CompletionRequest
    began = time.process_time()
    with pytest.raises(ApiError) as refused:
        parse(body, kind)
    assert time.process_time() - began < 2
    assert refused.value.status == 400 and len(refused.value.message) < 1000
    tracemalloc.start()
    try:
        with pytest.raises(ApiError):
            parse(body, kind)
        assert tracemalloc.get_traced_memory()[1] < 128 * 2**20
    finally:
        tracemalloc.stop()


def test_text_with_many_commas_is_no_list() -> None:
    text = "a,[{" * 500_000 + '"\\"\\\\' * 1000
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    request, unknown = parse(body, ChatRequest)
    assert request.messages[0].text == text and unknown == []


def test_others_are_answered_while_large_bodies_are_read(server: Served) -> None:
    longest = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal longest
        while not done.is_set():
            began = time.monotonic()
            assert server.get("/healthz").status_code == 200
            longest = max(longest, time.monotonic() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(
                lambda each: server.post(each[0], content=each[1], headers=JSON),
                COSTLY.values(),
            )
        )
    done.set()
    watcher.join()
    assert {answer.status_code for answer in answers} == {400}
    assert longest < 3, "seconds; it was 17"
    assert server.post(CHATS, CHAT).status_code == 200


def read_all(raw: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := raw.recv(65536):
            found += part
    return found


def test_a_body_of_two_lengths_is_refused(server: Served) -> None:
    body = json.dumps(CHAT).encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    for lengths in (
        f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n",
        f"Transfer-Encoding: chunked\r\nContent-Length: {len(chunked)}\r\n",
    ):
        with socket.create_connection(server.address, 30) as raw:
            raw.sendall(f"{HEAD}{lengths}\r\n".encode() + chunked)
            answer = read_all(raw)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"both Content-Length" in answer
        assert answer.count(b"HTTP/1.1") == 1 and b"connection: close" in answer.lower()


def test_a_body_that_comes_byte_by_byte_has_a_deadline() -> None:
    with serving(hasty=True) as served:
        with socket.create_connection(served.address, 30) as raw:
            raw.sendall(f"{HEAD}Content-Length: 100000\r\n\r\n".encode())
            began = time.monotonic()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    raw.sendall(b" ")
                    time.sleep(0.1)
                    if time.monotonic() - began > 8:
                        break
                    raw.settimeout(0.01)
                    with contextlib.suppress(TimeoutError):
                        if raw.recv(20).startswith(b"HTTP/1.1 408"):
                            break
            assert time.monotonic() - began < 5, "a second is all that a hasty one waits"
        assert served.post(CHATS, CHAT).status_code == 200


def test_bodies_have_a_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "MAX_BUFFERED", 100)
    statuses: list[int] = []
    inner: list[int] = []
    rules = AccessRules(
        keys=Keys({}),
        addresses=ClientAddresses(frozenset()),
        rate=RateLimit(0, time.monotonic),
        log=io.StringIO(),
    )

    async def request(app: Any, size: int) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x" * size, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/x",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
        }
        await app(scope, receive, send)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if not inner:  # another body while this one is held
            inner.append(1)
            await request(guarded, 60)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guarded = Middleware(application, rules, Metrics("fake"))
    asyncio.run(request(guarded, 60))
    asyncio.run(request(guarded, 60))
    assert statuses == [503, 200, 200], "and the room of a body that is done with is free again"


def test_the_fault_of_a_template_is_its_requests(server: Served) -> None:
    messages = [{"role": "user", "content": "divide by zero"}]
    refused = server.post(CHATS, {**CHAT, "messages": messages}, headers={"X-Request-Id": "zero"})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == "messages" and "chat template failed" in error["message"]
    line = server.logged("zero")
    assert "ZeroDivisionError" in line["cause"]
    assert line["status"] == 400 and line["param"] == "messages"


def test_the_log_says_why_a_request_was_refused(server: Served) -> None:
    server.post(CHATS, {**CHAT, "temperature": -1}, headers={"X-Request-Id": "cold"})
    server.post(COMPLETIONS, {"model": "fake", "prompt": "crash"}, headers={"X-Request-Id": "bad"})
    lines = {name: server.logged(name) for name in ("cold", "bad")}
    assert lines["cold"]["param"] == "temperature" and "greater than" in lines["cold"]["error"]
    assert lines["bad"]["status"] == 500
    assert lines["bad"]["cause"] == "RuntimeError: injected fault of the fake network"


def test_the_log_has_nothing_that_a_terminal_obeys(server: Served) -> None:
    server.get("/%1b%5b2J%e2%80%ae%c2%9b")
    server.get("/" + "x" * 5000)
    model = "\u202e\x1b[31m" + "m" * 5000
    server.post(CHATS, {**CHAT, "model": model})
    server.get("/end", headers={"X-Request-Id": "end"})
    server.logged("end")
    assert all(line.rstrip("\n").isprintable() for line in server.lines)
    lines = server.log()
    assert any(line["path"] == r"/\x1b[2J\u202e\x9b" for line in lines), "escaped, and still there"
    assert max(len(json.dumps(line)) for line in lines) < 4000
    assert any("(4501 more)" in line["path"] for line in lines)


def test_an_unknown_field_is_named_once(server: Served) -> None:
    for name in ("first", "second"):
        answer = server.post(
            CHATS,
            {**CHAT, "zzz_mine": 1, "messages": [{"role": "user", "content": "x", "yyy": 2}]},
            headers={"X-Request-Id": name},
        )
        assert answer.status_code == 200
    lines = {name: server.logged(name) for name in ("first", "second")}
    assert sorted(lines["first"]["ignored_fields"]) == ["messages.yyy", "zzz_mine"]
    assert "ignored_fields" not in lines["second"]


# ------------------------------------------------------------------------ keys and origins


ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_one_key_cannot_fill_the_queue(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"alice {ALICE}\nbob {BOB}\n")
    line = ["--api-keys", str(tmp_path / "keys"), "--batch-size", "1", "--max-waiting", "6"]
    with serving(*line, step_seconds=0.01) as served, ThreadPoolExecutor(12) as pool:
        long = {**CHAT, "messages": [{"role": "user", "content": "forever"}], "max_tokens": 60}
        asked = [pool.submit(served.post, CHATS, long, headers=bearer(ALICE)) for _ in range(12)]
        time.sleep(0.5)
        began = time.monotonic()
        assert served.post(CHATS, CHAT, headers=bearer(BOB)).status_code == 200
        waited = time.monotonic() - began
        statuses = [one.result().status_code for one in asked]
    # One runs and three wait: half of the queue. The other's comes after the one that runs.
    assert statuses.count(429) >= 12 - 5 and statuses.count(200) >= 3
    assert waited < 4, f"{waited} s: four of alice's take longer"


def test_pages_of_other_sites_are_let_in_by_name(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"alice {ALICE}\n")
    line = ["--api-keys", str(tmp_path / "keys"), "--allowed-origin", "https://app.example"]
    asking = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    }
    with serving(*line) as served:
        for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
            headers = {"Origin": origin}
            preflight = served.options(CHATS, headers={**headers, **asking})
            assert (preflight.status_code == 204) is allowed
            assert preflight.headers.get("access-control-allow-origin") == (
                origin if allowed else None
            )
            answer = served.post(CHATS, CHAT, headers={**headers, **bearer(ALICE)})
            assert ("access-control-allow-origin" in answer.headers) is allowed
            if allowed:
                assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
                refused = served.post(CHATS, CHAT, headers=headers)
                assert refused.status_code == 401
                assert refused.headers["access-control-allow-origin"] == origin

"""Requests that are wrong: each has its status, says why, and the server still answers."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.served import Served, serving

CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
TEXT = {"model": "fake", "prompt": "ab", "max_tokens": 4}
JSON = {"Content-Type": "application/json"}
MIB = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving() as made:
        yield made
        assert made.post(CHATS, CHAT).status_code == 200, "it still answers"
        check_log(made)


def check_log(served: Served) -> None:
    """Check that nothing went wrong that nobody was told of."""
    odd = [line for line in served.lines if not line.startswith(("{", "ready: ", "stopping: "))]
    assert not odd, "".join(odd)


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello", **fields}]}


# What is changed in a good request, the status, and a word of why.
WRONG_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 5}, "model: input should be a valid string"),
    ({"model": ["fake"]}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "at least 1 item"),
    ({"messages": "hello"}, "messages"),
    ({"messages": {"role": "user"}}, "messages"),
    ({"messages": ["hello"]}, "messages.0"),
    ({"messages": [{}]}, "messages.0.role: field required"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    (message(role="robot"), "messages.0.role"),
    (message(role="tool"), "messages.0.role"),
    (message(role=None), "messages.0.role"),
    (message(content=None), "messages.0.content"),
    (message(content=5), "messages.0.content"),
    (message(content=[]), "messages.0.content"),
    (message(content={"text": "x"}), "messages.0.content"),
    (message(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "parts {type: text"),
    (message(content=[{"type": "text"}]), "messages.0.content"),
    (message(name=5), "messages.0.name"),
    (message(tool_calls=[{}]), "messages.0.tool_calls is not supported"),
    ({"messages": [{"role": "assistant", "audio": {"id": "x"}}]}, "messages.0.audio is not"),
    ({"messages": [{"role": "user", "content": "x"}] * 5000}, "at most 4096"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": [1]}, "temperature"),
    ({"temperature": 1e300}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_p": "0.5"}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"top_k": -2}, "top_k"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"seed": 1.5}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"stop": [5]}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": "x" * 257}, "stop"),
    ({"n": 0}, "n: "),
    ({"n": 17}, "n: "),
    ({"n": 9}, "n: expected at most 8"),
    ({"n": "2"}, "n: "),
    ({"stream": 1}, "stream"),
    ({"stream": "true"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "requires stream: true"),
    ({"stream": True, "stream_options": {"include_usag": True}}, 'did you mean "include_usage"?'),
    ({"stream": True, "stream_options": []}, "stream_options"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.0}, "max_tokens"),
    ({"logprobs": 5}, "logprobs"),
    ({"top_logprobs": 2}, "requires logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"response_format": {"type": "json_object"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"response_format": "text"}, "response_format"),
    ({"tools": [{"type": "function"}]}, "tools is not supported"),
    ({"tool_choice": "required"}, "tool_choice is not supported"),
    ({"functions": [{"name": "f"}]}, "functions is not supported"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    ({"logit_bias": {"259": 1}}, "token 259 is not in the model's vocabulary"),
    ({"logit_bias": {str(n): 1 for n in range(2000)}}, "at most 1024"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": False}, "frequency_penalty"),
    ({"min_p": 1.1}, "min_p"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens: expected at most 4"),
    ({"stop_token_ids": [259]}, "token 259 is not in the model's vocabulary"),
    ({"stop_token_ids": ["x"]}, "stop_token_ids"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"best_of": 1, "n": 2}, "best_of must be at least n"),
    ({"best_of": 2, "stream": True}, "best_of cannot be streamed"),
    ({"best_of": 9}, "best_of: expected at most 8"),
    ({"guided_json": {"type": "object"}}, "guided_json is not supported"),
    ({"echo": True}, "echo"),
    ({"modalities": ["audio"]}, "modalities is not supported"),
    ({"reasoning_effort": "high"}, "reasoning_effort is not supported"),
    ({"temprature": 1}, 'did you mean "temperature"?'),
    ({"messages": [{"role": "user", "content": "x" * 3000}]}, "tokens long"),
]
WRONG_TEXTS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "the prompt is empty"),
    ({"prompt": []}, "a text, a list of"),
    ({"prompt": {}}, "a text, a list of"),
    ({"prompt": [None]}, "a text, a list of"),
    ({"prompt": ["a", 5]}, "a text, a list of"),
    ({"prompt": [[]]}, "a text, a list of"),
    ({"prompt": [-1]}, "a text, a list of"),
    ({"prompt": [1.5]}, "a text, a list of"),
    ({"prompt": [259]}, "vocabulary of 259"),
    ({"prompt": [[5], [300]]}, "vocabulary of 259"),
    ({"prompt": ["a"] * 2049}, "a text, a list of"),
    ({"prompt": ["a"] * 1000, "n": 8}, "at most 4096 answers"),
    ({"prompt": [5] * 2048}, "expected at most 2047"),
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": 21}, "logprobs"),
    ({"echo": "yes"}, "echo"),
    ({"max_tokens": 0}, "requires echo"),
    ({"best_of": 17}, "best_of"),
    ({"suffix": "x"}, "suffix is not supported"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
]
HARMLESS: list[dict[str, Any]] = [
    {"tools": [], "tool_choice": "none", "parallel_tool_calls": False},
    {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}},
    {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    {"modalities": ["text"], "response_format": {"type": "text"}},
    {"temperature": None, "top_p": None, "stop": None, "n": None, "seed": None, "stream": None},
    {"max_tokens": None, "max_completion_tokens": 3},
    {"stop": []},
    {"top_k": -1},
    {"temperature": 2},
    {"max_tokens": 100_000, "ignore_eos": False},
    {"min_p": 0.0, "min_tokens": 0, "skip_special_tokens": True, "stop_token_ids": []},
    {"priority": 3, "cache_salt": "x", "chat_template_kwargs": {}, "use_beam_search": False},
    {"x_of_mine": 1, "stream_options": None},
]


def test_there_are_at_least_sixty() -> None:
    assert len(WRONG_CHATS) + len(WRONG_TEXTS) + len(BROKEN) + len(ELSEWHERE) >= 60


def check_error(answer: httpx.Response, status: int, words: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"], error["message"]
    assert len(error["message"]) < 1000


@pytest.mark.parametrize(("change", "words"), WRONG_CHATS, ids=lambda value: str(value)[:60])
def test_a_wrong_field_of_a_conversation(server: Served, change, words: str) -> None:
    check_error(server.post(CHATS, {**CHAT, **change}), 400, words)


@pytest.mark.parametrize(("change", "words"), WRONG_TEXTS, ids=lambda value: str(value)[:60])
def test_a_wrong_field_of_a_completion(server: Served, change, words: str) -> None:
    check_error(server.post(COMPLETIONS, {**TEXT, **change}), 400, words)


@pytest.mark.parametrize("change", HARMLESS, ids=str)
def test_what_asks_for_nothing_is_no_error(server: Served, change: dict[str, Any]) -> None:
    assert server.post(CHATS, {**CHAT, **change}).status_code == 200


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_field_that_is_missing(server: Served, field: str) -> None:
    answer = server.post(CHATS, {k: v for k, v in CHAT.items() if k != field})
    check_error(answer, 400, f"{field}: field required")
    assert answer.json()["error"]["code"] == "missing_required_parameter"


WRONG_TYPES: list[Any] = [True, 1, 1.5, "x", [], {}, [None], {"x": 1}, -1, 10**30, "\u0000", [[]]]
FIELDS = sorted(
    {*(field for change, _ in WRONG_CHATS for field in change)} - {"temprature", "prompt"}
)


@pytest.mark.parametrize("field", FIELDS)
def test_any_type_in_any_field_is_a_client_error_or_right(server: Served, field: str) -> None:
    for value in WRONG_TYPES:
        answer = server.post(CHATS, {**CHAT, field: value})
        assert answer.status_code in (200, 400, 404), (field, value, answer.text)
        if answer.status_code != 200:
            check_error(answer, answer.status_code)


BROKEN: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b" ", "Invalid JSON"),
    (b"{", "Invalid JSON"),
    (b"null", "object"),
    (b"5", "object"),
    (b'"text"', "object"),
    (b"[]", "object"),
    (b"not json", "Invalid JSON"),
    (b'{"model": "fake",}', "Invalid JSON"),
    (b"{'model': 'fake'}", "Invalid JSON"),
    (b'{"model": "fake", "messages": [{"role": "user", "content": "\xff\xfe"}]}', "Invalid JSON"),
    (b'{"model": "fake", "messages": [{"role": "user", "content": "\xc3"}]}', "Invalid JSON"),
    (b'{"model": "fake", "messages": [{"role": "user", "content": "\\ud800"}]}', "Invalid JSON"),
    (json.dumps(CHAT).encode("utf-16"), "Invalid JSON"),
    (b"\xef\xbb\xbf" + json.dumps(CHAT).encode(), "Invalid JSON"),
    (b"\x00" * 100, "Invalid JSON"),
    (b"[" * 100_000, "recursion"),
    (b'{"a":' * 100_000, "recursion"),
    (b'{"model": "fake", "messages": [], "temperature": NaN}', "temperature"),
    (b'{"model": "fake", "messages": [], "temperature": Infinity}', "temperature"),
    (b'{"model": "fake", "messages": [], "temperature": 1e999}', "temperature"),
    (b'{"model": "fake", "messages": [], "seed": ' + b"9" * 5000 + b"}", ""),
]


@pytest.mark.parametrize(("body", "words"), BROKEN, ids=lambda value: repr(value)[:50])
@pytest.mark.parametrize("path", [CHATS, COMPLETIONS])
def test_a_body_that_is_no_request(server: Served, path: str, body: bytes, words: str) -> None:
    if path == COMPLETIONS and words == "temperature":
        words = ""  # the first of its faults is another
    check_error(server.post(path, content=body, headers=JSON), 400, words)


ELSEWHERE: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", CHATS, {}, 405),
    ("PUT", CHATS, {"json": CHAT}, 405),
    ("DELETE", "/v1/models/fake", {}, 405),
    ("POST", "/v1/models", {"json": {}}, 405),
    ("GET", "/v1", {}, 404),
    ("GET", "/v1/engines", {}, 404),
    ("POST", "/v1/embeddings", {"json": {"model": "fake", "input": "x"}}, 404),
    ("GET", "/v1/models/other", {}, 404),
    ("GET", "/v1/models/../../etc/passwd", {}, 404),
    ("GET", "/page/../api.py", {}, 404),
    ("GET", "/page/..%2fapi.py", {}, 404),
    ("GET", "/page/%2e%2e/%2e%2e/serve.py", {}, 404),
    ("GET", "/page/", {}, 404),
    ("GET", "/docs", {}, 404),
    ("GET", "/nothing", {}, 404),
    ("POST", CHATS, {"json": {**CHAT, "model": "other"}}, 404),
    ("POST", CHATS, {"data": {"model": "fake"}}, 415),
    ("POST", CHATS, {"content": json.dumps(CHAT), "headers": {"Content-Type": "text/plain"}}, 415),
    ("POST", CHATS, {"content": json.dumps(CHAT)}, 415),
]


@pytest.mark.parametrize(("method", "path", "options", "status"), ELSEWHERE)
def test_a_request_to_the_wrong_place(server: Served, method, path, options, status) -> None:
    with httpx.Client(trust_env=False, timeout=60) as client:
        check_error(client.request(method, server.url + path, **options), status)


# ------------------------------------------------------------------------ bodies, connections


def test_a_body_that_says_it_is_too_large_is_not_read(server: Served) -> None:
    head = f"POST {CHATS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(server.address, 30) as raw:
        raw.sendall(f"{head}Content-Length: {10**12}\r\n\r\n".encode())
        answer = read_all(raw)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"larger than 4 MiB" in answer
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(server: Served, chunked: bool) -> None:
    body = b'{"model": "' + b"x" * (5 * MIB) + b'"}'

    def parts() -> Iterator[bytes]:
        for at in range(0, len(body), 64 * 1024):
            yield body[at : at + 64 * 1024]

    answer = server.post(CHATS, content=parts() if chunked else body, headers=JSON)
    check_error(answer, 413, "larger than 4 MiB")


def test_a_body_just_below_the_limit_is_read(server: Served) -> None:
    content = "x" * (4 * MIB - 200)
    answer = server.post(CHATS, {**CHAT, "messages": [{"role": "user", "content": content}]})
    check_error(answer, 400, "tokens long")


def read_all(raw: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := raw.recv(65536):
            found += part
    return found


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,  # TLS
        b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:30]),
)
def test_what_is_no_http_is_cut_off(server: Served, sent: bytes) -> None:
    with socket.create_connection(server.address, 30) as raw:
        with contextlib.suppress(OSError):  # it is cut off before all is sent
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
        answer = read_all(raw)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 421"))
    assert server.get("/healthz").status_code == 200


def test_a_connection_on_which_nothing_comes_is_closed(hasty: Served) -> None:
    for sent in (b"", b"POST /v1/completions HTTP/1.1\r\nHost: local"):
        with socket.create_connection(hasty.address, 30) as raw:
            raw.sendall(sent)
            assert read_all(raw) == b""


def test_a_second_request_that_does_not_come_whole_is_closed(hasty: Served) -> None:
    with socket.create_connection(hasty.address, 30) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")
        answer = read_all(raw)
    assert answer.count(b"HTTP/1.1 200") == 1


def test_a_body_that_does_not_come_is_told_so(hasty: Served) -> None:
    head = f"POST {CHATS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(hasty.address, 30) as raw:
        raw.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        answer = read_all(raw)
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.slow
def test_a_reader_that_does_not_read_is_cut_off_and_nobody_waits_for_it(hasty: Served) -> None:
    body = json.dumps(
        {
            "model": "fake",
            "messages": [{"role": "user", "content": "forever"}],
            "max_tokens": 600,
            "stream": True,
            "logprobs": True,
            "top_logprobs": 20,
            "n": 1,
        }
    ).encode()
    head = f"POST {CHATS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with slow:
        slow.connect(hasty.address)
        slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert hasty.post(CHATS, CHAT).status_code == 200
        wait_until(lambda: any(line.get("failed") == "slow reader" for line in hasty.log()))
        wait_until(lambda: "vllm:num_requests_running" in hasty.get("/metrics").text)
        assert hasty.post(CHATS, CHAT).status_code == 200


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def hasty() -> Iterator[Served]:
    """A server that waits for a second where others wait for half a minute."""
    with serving(hasty=True) as made:
        yield made
        assert made.end() == 0
        check_log(made)


def test_hundreds_of_idle_connections_keep_nobody_out(server: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(server.address, 30))
        assert server.post(CHATS, CHAT).status_code == 200


def test_clients_that_leave_at_once_leave_nothing_behind(server: Served) -> None:
    body = json.dumps({**CHAT, "max_tokens": 1000, "stream": True}).encode()
    head = f"POST {CHATS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for cut in (20, 150, 400):
        for _ in range(20):
            with socket.create_connection(server.address, 30) as raw:
                raw.sendall((f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)[:cut])
    wait_until(
        lambda: 'vllm:num_requests_running{model_name="fake"} 0.0' in server.get("/metrics").text
    )
    assert server.post(CHATS, CHAT).status_code == 200


# ------------------------------------------------------------------------ made from the document


@pytest.mark.slow
def test_requests_made_from_the_document_are_answered_as_it_says(
    server: Served, tmp_path: Path
) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{server.url}/openapi.json",
        *("--url", server.url),
        *("--checks", "not_a_server_error,status_code_conformance,content_type_conformance"),
        *("--exclude-path-regex", "^/metrics"),
        *("--max-examples", "25"),
        *("--seed", "7"),
        *("--workers", "1"),
        *("--request-timeout", "120"),  # a machine that is busy may be slow to answer
        *("--no-color",),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

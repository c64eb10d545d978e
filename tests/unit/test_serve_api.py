"""OpenAI's API, over HTTP, by OpenAI's own client, on a fake model."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from entrypoints.serving.request import Failure
from entrypoints.serving.service import as_api_error
from tests.support.fake_model import FakeNetwork, FakeTokenizer
from tests.support.served import ROOT, Served, serving

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
FOREVER = {**CHAT, "messages": [{"role": "user", "content": "forever"}]}
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def slow() -> Iterator[Served]:
    """One place, two may wait; a step takes as long as many of the others' tests."""
    with serving("--batch-size", "1", "--max-waiting", "2", step_seconds=0.01) as made:
        yield made


def client_of(served: Served, key: str = "none") -> openai.OpenAI:
    http = httpx.Client(trust_env=False, timeout=60)
    return openai.OpenAI(base_url=served.url + "/v1", api_key=key, http_client=http, max_retries=0)


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    return client_of(server)


def greedy(content: str) -> str:
    """Return the whole greedy answer to one message."""
    said = f"user: {content}".encode()
    length = FakeNetwork.length(said)
    text = FakeNetwork.script(said)
    return (text * 3)[:length].decode("utf-8", errors="ignore")


# ------------------------------------------------------------------------ OpenAI's client


def test_the_client_lists_and_finds_the_model(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("fake", "model", "paddle-stacks")
    assert client.models.retrieve("fake") == model
    with pytest.raises(openai.NotFoundError, match='"other" does not exist'):
        client.models.retrieve("other")


def test_the_client_has_a_conversation(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model="fake",
        messages=[
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        ],
        temperature=0,
        response_format={"type": "text"},
        user="me",
        extra_headers={"X-Request-Id": "mine"},
    )
    assert found.object == "chat.completion" and found.model == "fake"
    assert re.fullmatch("chatcmpl-[0-9a-f]{24}", found.id)
    assert abs(found.created - time.time()) < 60
    assert found.system_fingerprint == "fp_fake"
    (choice,) = found.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.refusal) == ("assistant", None)
    said = b"system: be kinduser: hello"
    assert choice.message.content == (
        (FakeNetwork.script(said) * 3)[: FakeNetwork.length(said)].decode(errors="ignore")
    )
    prompt = FakeTokenizer()("<s>system: be kind</s><s>user: hello</s><s>")["input_ids"]
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(prompt)
    assert found.usage.completion_tokens == FakeNetwork.length(said)
    assert found.usage.total_tokens == len(prompt) + FakeNetwork.length(said)


def test_the_client_streams_a_conversation(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        **FOREVER, max_tokens=100, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    *parts, last = chunks
    assert last.choices == [] and last.usage is not None
    assert last.usage.completion_tokens == 100
    assert all(chunk.usage is None for chunk in parts)
    deltas = [chunk.choices[0].delta for chunk in parts]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert all(delta.role is None for delta in deltas[1:])
    text = "".join(delta.content or "" for delta in deltas)
    whole = client.chat.completions.create(**FOREVER, max_tokens=100)
    assert text == whole.choices[0].message.content
    assert "狐狸" in text and "🐶" in text and "\ufffd" not in text
    reasons = [chunk.choices[0].finish_reason for chunk in parts]
    assert reasons == [None] * (len(parts) - 1) + ["length"]


def test_the_client_streams_several_answers_each_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {**CHAT, "temperature": 1.3, "seed": 11, "n": 3, "max_tokens": 40}
    whole = client.chat.completions.create(**asked)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_the_client_completes_texts(client: openai.OpenAI) -> None:
    found = client.completions.create(model="fake", prompt=["ab", "cd"], n=2, seed=1)
    assert found.object == "text_completion" and found.id.startswith("cmpl-")
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert {choice.finish_reason for choice in found.choices} == {"length"}
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (4, 4 * 16)


def test_a_prompt_of_tokens_is_its_text(client: openai.OpenAI) -> None:
    tokens = FakeTokenizer()("ab")["input_ids"]
    asked: dict[str, Any] = {"model": "fake", "temperature": 0, "max_tokens": 30}
    wanted = client.completions.create(prompt="ab", **asked).choices[0].text
    assert client.completions.create(prompt=tokens, **asked).choices[0].text == wanted
    both = client.completions.create(prompt=[tokens, tokens], **asked).choices
    assert [choice.text for choice in both] == [wanted, wanted]
    streamed = client.completions.create(prompt="ab", stream=True, **asked)
    chunks = list(streamed)
    assert "".join(chunk.choices[0].text for chunk in chunks) == wanted
    assert chunks[-1].choices[0].finish_reason == "length"


def test_the_same_seed_makes_the_same_text_and_none_another(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {**CHAT, "temperature": 3.0, "max_tokens": 60}

    def answer(**more: Any) -> str | None:
        found = client.chat.completions.create(**asked, **more)
        return found.choices[0].message.content

    assert answer(seed=5) == answer(seed=5) != answer(seed=6)
    assert answer() != answer()
    assert answer(seed=-1) == answer(seed=-1)


def test_other_servers_parameters_are_known(client: openai.OpenAI) -> None:
    one = client.chat.completions.create(
        **{**CHAT, "temperature": 5.0}, extra_body={"top_k": 1, "repetition_penalty": 1.0}
    )
    assert one.choices[0].message.content == greedy("hello")


@pytest.mark.parametrize("stop", ["fox", ["zzz", "狐", "dog"]])
@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_the_answer_and_is_not_in_it(client, stop, stream: bool) -> None:
    asked: dict[str, Any] = {**FOREVER, "max_tokens": 150, "stop": stop, "stream": stream}
    found = client.chat.completions.create(**asked)
    if stream:
        chunks = list(found)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        text, reason = found.choices[0].message.content, found.choices[0].finish_reason
    whole = client.chat.completions.create(**FOREVER, max_tokens=150).choices[0].message.content
    stops = [stop] if isinstance(stop, str) else stop
    assert text == whole[: min(whole.index(s) for s in stops if s in whole)]
    assert reason == "stop"


def test_probabilities_of_a_conversation(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {**FOREVER, "max_tokens": 70, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.logprobs is not None and whole.logprobs.content is not None
    content = whole.logprobs.content
    assert len(content) == 70
    spelt = b"".join(bytes(entry.bytes or ()) for entry in content)
    assert spelt.decode(errors="ignore") == whole.message.content
    for entry in content:
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].bytes == entry.bytes and entry.logprob <= 0
    streamed = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content or []
    assert streamed == content
    bare = client.chat.completions.create(**CHAT, logprobs=True).choices[0]
    assert bare.logprobs is not None and bare.logprobs.content is not None
    assert all(entry.top_logprobs == [] for entry in bare.logprobs.content)


def test_probabilities_of_a_completion(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "fake", "prompt": "ab", "temperature": 0, "logprobs": 2}
    choice = client.completions.create(**asked, max_tokens=8).choices[0]
    found = choice.logprobs
    assert found is not None and found.tokens is not None
    assert "".join(found.tokens) == choice.text
    assert found.text_offset == list(range(8))
    assert found.top_logprobs is not None and found.token_logprobs is not None
    for token, chance, likeliest in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, strict=True
    ):
        assert likeliest[token] == chance and len(likeliest) == 2
    offsets = []
    for chunk in client.completions.create(**asked, max_tokens=8, stream=True):
        offsets += (chunk.choices[0].logprobs and chunk.choices[0].logprobs.text_offset) or []
    assert offsets == found.text_offset


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**CHAT, response_format={"type": "json_object"})
    assert (bad.value.param, bad.value.type) == ("response_format.type", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**{**CHAT, "model": "gpt-4o"})
    assert missing.value.code == "model_not_found" and '"fake"' in str(missing.value)
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="fake", prompt="x" * 2048)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.InternalServerError) as failed:
        client.completions.create(model="fake", prompt="crash")
    assert failed.value.code == "engine_failed"


def test_a_fault_in_a_stream_is_told_in_it(client: openai.OpenAI) -> None:
    asked = {**CHAT, "messages": [{"role": "user", "content": "stumble"}], "stream": True}
    said = []
    with pytest.raises(openai.APIError, match="the engine failed"):
        for chunk in client.chat.completions.create(**asked):
            said.append(chunk)
    assert said
    assert client.chat.completions.create(**CHAT).choices[0].message.content == greedy("hello")


# ------------------------------------------------------------------------ many at once


def test_many_at_once_get_what_they_would_get_alone(server: Served) -> None:
    contents = [f"question {number} {'x' * (number * 37 % 400)}" for number in range(40)]

    def ask(content: str) -> str:
        asked = {**CHAT, "messages": [{"role": "user", "content": content}]}
        return server.post(CHATS, asked).json()["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(ask, contents))
    assert found == [greedy(content) for content in contents]


@pytest.fixture
def occupied(slow: Served) -> Iterator[Served]:
    """A server whose place is taken, and whose queue is full."""
    with ThreadPoolExecutor(3) as pool:
        asked = {**FOREVER, "max_tokens": 100}
        under_way = [pool.submit(slow.post, CHATS, asked) for _ in range(3)]
        wait_until(lambda: metric(slow, "vllm:num_requests_waiting") == 2)
        yield slow
        assert [done.result().status_code for done in under_way] == [200] * 3


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def metric(served: Served, name: str) -> float:
    text = served.get("/metrics").text
    found = re.search(rf'^{re.escape(name)}{{model_name="fake"}} (\S+)$', text, re.MULTILINE)
    assert found, text
    return float(found[1])


def test_a_full_queue_says_when_to_come_again(occupied: Served) -> None:
    refused = occupied.post(CHATS, CHAT)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "queue_full"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    with pytest.raises(openai.RateLimitError):
        client_of(occupied).chat.completions.create(**CHAT)


def test_a_client_that_leaves_gives_its_place_back(slow: Served) -> None:
    endless = {**FOREVER, "max_tokens": 1000, "stream": True}
    with slow_stream(slow, endless) as lines:
        next(lines)
        assert metric(slow, "vllm:num_requests_running") == 1
    wait_until(lambda: metric(slow, "vllm:num_requests_running") == 0)
    wait_until(lambda: any(line.get("failed") == "gone" for line in slow.log()))
    left = [line for line in slow.log() if line.get("failed") == "gone"][-1]
    assert left["completion_tokens"] < 1000 and left["finish_reasons"] == [""]


def test_one_that_leaves_without_a_stream_gives_its_place_back(slow: Served) -> None:
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=0.3, trust_env=False) as client:
        client.post(slow.url + CHATS, json={**FOREVER, "max_tokens": 1000})
    wait_until(lambda: metric(slow, "vllm:num_requests_running") == 0)
    assert slow.post(CHATS, CHAT).status_code == 200


class slow_stream:
    """The lines of a stream, as they come."""

    def __init__(self, served: Served, body: dict[str, Any]) -> None:
        self._client = httpx.Client(timeout=60, trust_env=False)
        self._open = self._client.stream("POST", served.url + CHATS, json=body)

    def __enter__(self) -> Iterator[str]:
        response = self._open.__enter__()
        assert response.status_code == 200
        return (line for line in response.iter_lines() if line)

    def __exit__(self, *_: object) -> None:
        self._open.__exit__(None, None, None)
        self._client.close()


def test_time_that_is_over_is_told_before_the_answer_and_in_it() -> None:
    with serving("--request-timeout", "0.5", step_seconds=0.02) as served:
        asked = {**FOREVER, "max_tokens": 1000}
        over = served.post(CHATS, asked)
        assert (over.status_code, over.json()["error"]["code"]) == (504, "timeout")
        with slow_stream(served, {**asked, "stream": True}) as lines:
            said = list(lines)
        assert "timed out" in said[-1] and len(said) > 2
        assert served.end() == 0


@pytest.mark.parametrize(
    ("kind", "started", "status"),
    [
        ("timeout", False, 503),
        ("timeout", True, 504),
        ("stopped", True, 503),
        ("stopped", False, 503),
        ("fault", True, 500),
    ],
)
def test_a_failure_has_its_status(kind: str, started: bool, status: int) -> None:
    error = as_api_error(Failure(kind, started))
    assert error.status == status and error.body()["error"]["type"] == "server_error"
    assert ("Retry-After" in error.headers) == (kind == "timeout" and not started)


# ------------------------------------------------------------------------ who may


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("# who may\nalice sk-alice-0123456789\n\nsk-nobody-0123456789\n")
    with serving("--api-keys", str(keys), "--requests-per-minute", "30") as made:
        yield made


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer  ,"},
        {"Authorization": "Bearer sk-alice"},
        {"Authorization": "Bearer sk-alice-01234567890"},
        {"Authorization": "Bearer alice"},
        {"Authorization": "Basic sk-alice-0123456789"},
        {"Authorization": "sk-alice-0123456789"},
        {"Authorization": b"Bearer \xff\xfe\xfd"},
        {"api-key": "sk-alice-0123456789"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/models", "/metrics", "/openapi.json", "/version", "/tokenizer_info", "/nothing"]
)
def test_without_a_key_nothing_is_answered(keyed: Served, given, path: str) -> None:
    refused = keyed.get(path, headers=given)
    assert refused.status_code == 401
    assert refused.json()["error"]["type"] == "authentication_error"
    assert refused.headers["www-authenticate"] == "Bearer"


def test_a_key_is_known_by_its_name_and_never_written(keyed: Served) -> None:
    with pytest.raises(openai.AuthenticationError):
        client_of(keyed, "wrong-wrong-wrong-wrong").models.list()
    assert client_of(keyed, "sk-alice-0123456789").models.list().data
    assert client_of(keyed, "sk-nobody-0123456789").models.list().data
    wait_until(lambda: "key4" in [line.get("key") for line in keyed.log()])
    assert "alice" in [line.get("key") for line in keyed.log()]
    assert not any("sk-" in line for line in keyed.lines)


@pytest.mark.parametrize(
    "path", ["/", "/page/chat.js", "/page/chat.css", "/health", "/healthz", "/readyz"]
)
def test_what_needs_no_key(keyed: Served, path: str) -> None:
    assert keyed.get(path).status_code == 200


def test_any_host_is_right_with_keys(keyed: Served) -> None:
    assert keyed.get("/healthz", headers={"Host": "llm.example"}).status_code == 200


def test_a_key_has_so_many_requests_a_minute_and_others_have_theirs(keyed: Served) -> None:
    alice = {"Authorization": "Bearer sk-alice-0123456789"}
    # More than a minute's, since some come back while they are asked for.
    answers = [keyed.get("/v1/models", headers=alice) for _ in range(60)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and refused[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused[-1].headers["retry-after"]) >= 1
    other = {"Authorization": "Bearer sk-nobody-0123456789"}
    assert keyed.get("/v1/models", headers=other).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.0.2.1", ""])
def test_without_keys_another_sites_name_is_refused(server: Served, host: str) -> None:
    assert server.get("/v1/models", headers={"Host": host}).status_code == 421
    for local in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "x.localhost"):
        assert server.get("/v1/models", headers={"Host": local}).status_code == 200


# ------------------------------------------------------------------------ what watches it


def test_metrics_have_the_usual_names(server: Served) -> None:
    before = {name: metric(server, name) for name in COUNTED}
    server.post(CHATS, {**FOREVER, "max_tokens": 10})
    after = {name: metric(server, name) for name in COUNTED}
    prompt = len(FakeTokenizer()("<s>user: forever</s><s>")["input_ids"])
    assert [after[name] - before[name] for name in COUNTED] == [prompt, 10, 1, 1, 1, 1, 9, 1, 1]
    text = server.get("/metrics").text
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert f'vllm:{name}{{model_name="fake"}} 0.0' in text
    assert 'vllm:request_success_total{finished_reason="length",model_name="fake"}' in text
    assert 'handler="/v1/chat/completions",method="POST",status="200"' in text
    server.get("/no/such/path")
    with httpx.Client(trust_env=False) as anything:
        anything.request("BREW", server.url + "/v1/models")
    text = server.get("/metrics").text
    assert "no/such" not in text and "BREW" not in text and 'method="other"' in text


COUNTED = (
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:time_to_first_token_seconds_count",
    "vllm:e2e_request_latency_seconds_count",
    "vllm:request_queue_time_seconds_count",
    "vllm:request_prefill_time_seconds_count",
    "vllm:inter_token_latency_seconds_count",
    "vllm:request_generation_tokens_count",
    "vllm:request_time_per_output_token_seconds_count",
)


def test_the_log_has_what_happened_and_not_what_was_said(server: Served) -> None:
    asked = {**CHAT, "messages": [{"role": "user", "content": "a secret of mine"}]}
    name = server.post(CHATS, asked, headers={"X-Request-Id": "abc-1"}).headers["x-request-id"]
    assert name == "abc-1"
    wait_until(lambda: any(line["request"] == "abc-1" for line in server.log()))
    (line,) = [line for line in server.log() if line["request"] == "abc-1"]
    assert (line["method"], line["path"], line["status"]) == ("POST", CHATS, 200)
    assert line["completion_tokens"] > 0 and line["finish_reasons"] == ["stop"]
    assert line["stream"] is False and line["client"] == "127.0.0.1"
    assert not any("secret of mine" in line for line in server.lines)
    before = len(server.log())
    odd = server.get("/healthz", headers={"X-Request-Id": 'x"y z' * 3})
    assert re.fullmatch("[0-9a-f]{16}", odd.headers["x-request-id"])
    server.get("/nothing")
    wait_until(lambda: len(server.log()) > before)
    assert server.log()[-1]["path"] == "/nothing", "probes that are well are not in it"


def test_the_log_has_prompts_where_it_is_asked_to() -> None:
    with serving("--log-prompts") as served:
        served.post(CHATS, CHAT)
        served.post(COMPLETIONS, {"model": "fake", "prompt": "ab"})
        assert served.end() == 0
        logged = [line.get("messages") or line.get("prompt") for line in served.log()]
        assert logged == [[{"role": "user", "content": "hello"}], "ab"]


def test_every_response_has_the_security_headers(server: Served) -> None:
    for path in ("/", "/page/chat.js", "/v1/models", "/nothing", "/openapi.json"):
        headers = server.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers and "access-control-allow-origin" not in headers


def test_the_document_says_what_the_routes_take(server: Served) -> None:
    document = server.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    body = document["paths"][CHATS]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/ChatRequest"}
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "max_completion_tokens", "top_logprobs", "stream_options"} <= set(fields)


# ------------------------------------------------------------------------ its end


def test_what_is_under_way_is_finished_and_nothing_new_begun() -> None:
    with serving(step_seconds=0.01) as served:
        asked = {**FOREVER, "max_tokens": 150, "stream": True}
        with slow_stream(served, asked) as lines:
            said = [next(lines)]
            served.process.send_signal(signal.SIGTERM)
            wait_until(lambda: served.get("/readyz").status_code == 503)
            assert served.get("/healthz").status_code == 200
            refused = served.post(CHATS, CHAT)
            assert refused.status_code == 503 and refused.headers["retry-after"]
            said += list(lines)
        assert said[-1] == "data: [DONE]"
        reasons = [json.loads(x[6:])["choices"][0]["finish_reason"] for x in said[:-1]]
        assert reasons[-1] == "length"
        assert served.process.wait(60) == 0


def test_when_there_is_no_time_left_everybody_is_told_so() -> None:
    with serving("--grace", "1", step_seconds=0.01) as served:
        with slow_stream(served, {**FOREVER, "max_tokens": 1000, "stream": True}) as lines:
            next(lines)
            served.process.send_signal(signal.SIGTERM)
            said = list(lines)
        assert "the server shut down" in said[-1]
        assert served.process.wait(60) == 128 + signal.SIGTERM
    assert "stopped before every answer was finished" in "".join(served.lines)


def test_a_second_signal_ends_it_at_once() -> None:
    with serving(step_seconds=0.01) as served:
        with slow_stream(served, {**FOREVER, "max_tokens": 1000, "stream": True}) as lines:
            next(lines)
            served.process.send_signal(signal.SIGTERM)
            wait_until(lambda: served.get("/readyz").status_code == 503)
            served.process.send_signal(signal.SIGINT)
            list(lines)
        assert served.process.wait(60) == 128 + signal.SIGTERM


def test_a_port_that_is_taken_is_the_machines_fault(server: Served) -> None:
    program = ROOT / "tests" / "support" / "fake_server.py"
    done = subprocess.run(
        [sys.executable, program, "0", "--port", str(server.address[1])],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "cannot listen on 127.0.0.1" in done.stderr and "use another --port" in done.stderr

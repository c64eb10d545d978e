"""Every field that the server accepts does what OpenAI's and vLLM's documents say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from paddle_stacks import __version__
from tests.support.fake_model import BEGIN, CONTEXT, END, FIRST, FakeNetwork, FakeTokenizer
from tests.support.served import Served, serving

CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
TEXT = {"model": "fake", "prompt": "ab", "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    http = httpx.Client(trust_env=False, timeout=60)
    return openai.OpenAI(
        base_url=server.url + "/v1", api_key="none", http_client=http, max_retries=0
    )


def chat(served: Served, **fields: Any) -> dict[str, Any]:
    answer = served.post(CHATS, {**CHAT, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def complete(served: Served, **fields: Any) -> dict[str, Any]:
    answer = served.post(COMPLETIONS, {**TEXT, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def tokens_of(text: str) -> list[int]:
    return FakeTokenizer()(text)["input_ids"]


# ------------------------------------------------------------------------ conversations


@pytest.mark.parametrize("how", ["object", "model_dump", "without None", "to_dict"])
def test_an_answer_is_sent_back_as_the_library_has_it(client: openai.OpenAI, how: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "Name a fruit."}]
    answer = client.chat.completions.create(model="fake", messages=messages).choices[0].message
    messages.append(
        {
            "object": answer,
            "model_dump": answer.model_dump(),
            "without None": answer.model_dump(exclude_none=True),
            "to_dict": answer.to_dict(),
        }[how]
    )
    messages.append({"role": "user", "content": "Another one."})
    again = client.chat.completions.create(model="fake", messages=messages, temperature=0)
    plain = [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": "Another one."},
    ]
    wanted = client.chat.completions.create(model="fake", messages=plain, temperature=0)
    assert again.choices[0].message.content == wanted.choices[0].message.content


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None}, ""),
        ({}, ""),
        ({"content": []}, ""),
        ({"content": None, "refusal": "No."}, "No."),
        ({"content": "x", "tool_calls": [], "function_call": None, "annotations": []}, "x"),
        ({"content": "x", "reasoning_content": "hm"}, "x"),
    ],
)
def test_an_assistants_message_may_be_empty(server: Served, message, text: str) -> None:
    asked = [{"role": "assistant", **message}, {"role": "user", "content": "hi"}]
    plain = [{"role": "assistant", "content": text}, {"role": "user", "content": "hi"}]
    assert chat(server, messages=asked)["choices"] == chat(server, messages=plain)["choices"]


def test_max_tokens_is_cut_to_what_there_is_room_for(server: Served) -> None:
    endless = [{"role": "user", "content": "forever"}]
    found = chat(server, messages=endless, max_tokens=10**6)
    assert found["usage"]["completion_tokens"] == 1024
    long = "x" * (CONTEXT - 60) + "forever"
    found = chat(server, messages=[{"role": "user", "content": long}], max_tokens=10**6)
    assert found["usage"]["total_tokens"] == CONTEXT
    assert found["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("length", [CONTEXT, 20 * CONTEXT, 200 * CONTEXT])
def test_a_prompt_that_is_too_long_is_told_by_its_code(server: Served, length: int) -> None:
    for path, fields in (
        (CHATS, {"messages": [{"role": "user", "content": "x" * length}]}),
        (COMPLETIONS, {"prompt": "x" * length}),
        (COMPLETIONS, {"prompt": [5] * min(length, 200_000)}),
    ):
        refused = server.post(path, {"model": "fake", **fields})
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
        assert f"maximum context length is {CONTEXT} tokens" in error["message"]


def test_there_is_no_responses_api_and_the_client_is_told(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no Responses API"):
        client.responses.create(model="fake", input="hi")


# ------------------------------------------------------------------------ where an answer ends


def test_stop_token_ids_end_an_answer_and_are_not_in_it(server: Served) -> None:
    whole = complete(server, max_tokens=60)["choices"][0]["text"]
    at = whole.index("o")
    found = complete(server, max_tokens=60, stop_token_ids=[ord("o") + FIRST])["choices"][0]
    assert (found["text"], found["finish_reason"]) == (whole[:at], "stop")


def test_a_stop_text_is_in_the_answer_where_it_is_wanted(server: Served) -> None:
    found = complete(server, max_tokens=99, stop=["fox"], include_stop_str_in_output=True)
    assert found["choices"][0]["text"].endswith("fox")


def test_an_answer_goes_on_behind_its_end_token(server: Served) -> None:
    usual = chat(server)
    assert usual["choices"][0]["finish_reason"] == "stop"
    found = chat(server, ignore_eos=True, max_tokens=150)
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 150
    shorter = chat(server, ignore_eos=True, stop_token_ids=[END])
    assert shorter["choices"][0]["message"] == usual["choices"][0]["message"]


def test_min_tokens_come_before_any_end(server: Served) -> None:
    usual = chat(server)["usage"]["completion_tokens"]
    found = chat(server, min_tokens=usual + 10)
    assert found["usage"]["completion_tokens"] >= usual + 10
    whole = complete(server, max_tokens=99)["choices"][0]["text"]
    late = complete(server, max_tokens=99, stop=[whole[2]], min_tokens=20)["choices"][0]["text"]
    assert len(late.encode()) >= 19 and whole.startswith(late)


def test_special_tokens_are_shown_where_they_are_wanted(server: Served) -> None:
    asked = {"max_tokens": 3, "logit_bias": {str(END): 100}, "ignore_eos": True}
    assert chat(server, **asked)["choices"][0]["message"]["content"] == ""
    found = chat(server, **asked, skip_special_tokens=False)
    assert found["choices"][0]["message"]["content"] == "</s></s></s>"


# ------------------------------------------------------------------------ sampling


def test_a_bias_makes_a_token_certain_or_impossible(server: Served) -> None:
    always = complete(server, logit_bias={str(ord("z") + FIRST): 100})["choices"][0]["text"]
    assert always == "z" * 12
    usual = complete(server, max_tokens=40)["choices"][0]["text"]
    never = complete(server, max_tokens=40, logit_bias={str(ord(usual[0]) + FIRST): -100})
    assert usual[0] not in never["choices"][0]["text"]


@pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty"])
def test_penalties_are_for_tokens_of_the_answer(server: Served, field: str) -> None:
    bias = {str(ord("z") + FIRST): 11}  # a little more than the others have
    usual = complete(server, prompt="zzzz", logit_bias=bias)["choices"][0]["text"]
    found = complete(server, prompt="zzzz", logit_bias=bias, **{field: 2})["choices"][0]["text"]
    assert found[0] == usual[0], "the prompt's tokens do not count"
    assert found.count("z") < usual.count("z")


def test_min_p_leaves_the_likely_tokens(server: Served) -> None:
    asked: dict[str, Any] = {"temperature": 5.0, "max_tokens": 40}
    assert (
        complete(server, **asked, min_p=1.0)["choices"][0]["text"]
        == (complete(server, max_tokens=40)["choices"][0]["text"])
    )


def test_the_best_of_several_has_the_greatest_mean_logprob(server: Served) -> None:
    asked: dict[str, Any] = {"temperature": 3.0, "seed": 5, "logprobs": 0}
    every = complete(server, **asked, n=8)["choices"]

    def mean(choice: dict[str, Any]) -> float:
        return float(np.mean(choice["logprobs"]["token_logprobs"]))

    best = complete(server, **asked, n=2, best_of=8)
    wanted = sorted(every, key=mean, reverse=True)[:2]
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in wanted]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert best["usage"]["completion_tokens"] == 8 * 12
    bare = complete(server, temperature=3.0, seed=5, best_of=8)["choices"][0]
    assert (bare["text"], bare["logprobs"]) == (wanted[0]["text"], None)


# ------------------------------------------------------------------------ echo


def reference(tokens: list[int]) -> list[float]:
    """Return the logprob of each token from the second on."""
    found = []
    for at in range(1, len(tokens)):
        logits = FakeNetwork().logits(tuple(tokens[:at])).astype(np.float64)
        found.append(float(logits[tokens[at]] - np.log(np.exp(logits).sum())))
    return found


@pytest.mark.parametrize("tokenized", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_has_the_prompt_and_its_logprobs(server: Served, tokenized, stream) -> None:
    prompts = ["The quick 狐", "ab"]
    asked = [tokens_of(prompt) for prompt in prompts] if tokenized else prompts
    fields = {"prompt": asked, "echo": True, "logprobs": 1, "max_tokens": 4}
    usual = complete(server, prompt=asked, max_tokens=4)["choices"]
    if stream:
        choices = streamed(server, {**TEXT, **fields})
    else:
        choices = complete(server, **fields)["choices"]
    for prompt, choice, bare in zip(prompts, choices, usual, strict=True):
        assert choice["text"] == prompt + bare["text"]
        logprobs = choice["logprobs"]
        tokens = tokens_of(choice["text"])
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
        assert logprobs["token_logprobs"][1:] == pytest.approx(reference(tokens), abs=1e-4)
        lengths = [{len(values) for values in logprobs.values()}]
        assert lengths == [{len(tokens)}]
        assert logprobs["text_offset"] == [
            sum(map(len, logprobs["tokens"][:at])) for at in range(len(tokens))
        ]
        for chosen, top in zip(
            logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True
        ):
            assert max(top.values()) >= chosen - 1e-9


def streamed(served: Served, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the choices of a stream, put together."""
    http = httpx.Client(trust_env=False, timeout=60)
    with openai.OpenAI(base_url=served.url + "/v1", api_key="x", http_client=http) as client:
        choices: dict[int, dict[str, Any]] = {}
        for chunk in client.completions.create(**body, stream=True):
            for choice in chunk.choices:
                whole = choices.setdefault(choice.index, {"text": "", "logprobs": {}})
                whole["text"] += choice.text
                for name, values in choice.logprobs or {}:
                    whole["logprobs"].setdefault(name, []).extend(values)
    return [choices[index] for index in sorted(choices)]


def test_an_echo_has_the_logprob_of_an_end_token_too(server: Served) -> None:
    """Clients cut the last entry off, as the one token that was generated."""
    prompt = [BEGIN, *tokens_of("a" * 90)]  # behind which the model ends
    found = complete(server, prompt=prompt, echo=True, logprobs=1, max_tokens=1)
    choice = found["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("a" * 90, "stop")
    assert len(choice["logprobs"]["token_logprobs"]) == len(prompt) + 1
    assert choice["logprobs"]["tokens"][-1] == "</s>"
    assert found["usage"]["completion_tokens"] == 0


def test_an_echo_alone_generates_nothing(server: Served) -> None:
    found = complete(server, prompt="abc", echo=True, logprobs=0, max_tokens=0)
    (choice,) = found["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("abc", "length")
    assert len(choice["logprobs"]["tokens"]) == 3
    assert found["usage"]["completion_tokens"] == 0


def test_a_long_echo_is_read_in_parts(server: Served) -> None:
    text = "The quick brown fox " * 40
    found = complete(server, prompt=text, echo=True, logprobs=0, max_tokens=0)["choices"][0]
    logprobs = found["logprobs"]["token_logprobs"]
    assert logprobs[1:] == pytest.approx(reference(tokens_of(text)), abs=1e-4)
    assert math.isfinite(sum(logprobs[1:]))


# ------------------------------------------------------------------------ lists, tokens, state


def test_a_list_of_prompts_is_one_request_however_many_they_are() -> None:
    with serving("--batch-size", "4", "--max-waiting", "2") as served:
        prompts = [f"prompt {n}" for n in range(100)]
        found = complete(served, prompt=prompts, max_tokens=3)["choices"]
        assert [choice["index"] for choice in found] == list(range(100))
        for at in (0, 57, 99):
            alone = complete(served, prompt=prompts[at], max_tokens=3)["choices"][0]
            assert found[at]["text"] == alone["text"]


def test_texts_become_tokens_and_tokens_texts(server: Served) -> None:
    found = server.post("/tokenize", {"model": "fake", "prompt": "狐 a"}).json()
    tokens = tokens_of("狐 a")
    assert found == {
        "count": len(tokens),
        "max_model_len": CONTEXT,
        "tokens": tokens,
        "token_strs": None,
    }
    spelt = server.post("/tokenize", {"prompt": "ab", "return_token_strs": True}).json()
    assert spelt["token_strs"] == ["a", "b"]
    conversation = server.post("/tokenize", {"messages": CHAT["messages"]}).json()
    assert conversation["tokens"] == tokens_of("<s>user: hello</s><s>")
    assert server.post("/detokenize", {"tokens": tokens}).json() == {"prompt": "狐 a"}
    for path, body, status in (
        ("/tokenize", {}, 400),
        ("/tokenize", {"prompt": "a", "messages": CHAT["messages"]}, 400),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404),
        ("/detokenize", {"tokens": [259]}, 400),
        ("/detokenize", {"tokens": "x"}, 400),
    ):
        assert server.post(path, body).status_code == status


def test_what_watches_a_vllm_finds_what_it_looks_for(server: Served) -> None:
    health = server.get("/health")
    assert (health.status_code, health.content) == (200, b"")
    assert server.get("/version").json() == {"version": __version__}
    assert set(server.get("/tokenizer_info").json()) == {"bos_token", "eos_token", "pad_token"}


def test_every_chunk_has_its_usage_where_it_is_asked_for(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = client.completions.create(
        model="fake", prompt="ab", max_tokens=5, stream=True, stream_options=options
    )
    counts = [chunk.usage.completion_tokens for chunk in stream if chunk.usage]
    assert counts == sorted(counts) and counts[-1] == 5 and len(counts) > 2

"""What ``infer --input`` takes, and what it says of what it does not take."""

from __future__ import annotations

import json

import pytest

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import prompts
from paddle_stacks.jobs.prompts import Message, Prompt, SamplingParams


def lines(*entries: object) -> bytes:
    return "\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries).encode()


def fault(content: bytes) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        prompts.parse(content, "in.jsonl")
    [problem] = caught.value.problems
    return problem.what, problem.where


def said(*roles: str) -> dict[str, object]:
    return {"id": 1, "messages": [{"role": role, "content": "x"} for role in roles]}


def test_prompts_and_messages() -> None:
    content = lines(
        {"id": "a", "prompt": "北京?"},
        {
            "id": 7,
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        },
    )
    assert prompts.parse(content, "in.jsonl") == [
        Prompt("a", (Message("user", "北京?"),), True, "in.jsonl:1"),
        Prompt(7, (Message("system", "s"), Message("user", "u")), False, "in.jsonl:2"),
    ]


def test_blank_lines_windows_line_ends_and_a_byte_order_mark() -> None:
    content = b'\xef\xbb\xbf{"id": 1, "prompt": "x"}\r\n\r\n  \n{"id": 2, "prompt": "y"}\r\n'
    assert [(p.id, p.where) for p in prompts.parse(content, "f")] == [(1, "f:1"), (2, "f:4")]


def test_several_turns() -> None:
    [prompt] = prompts.parse(lines(said("system", "user", "assistant", "user")), "f")
    assert [m.role for m in prompt.messages] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "not JSON"),
        (b"[1, 2]", "expected a JSON object, got [1, 2]"),
        (b'{"id": 1, "prompt": "a\0b"}', "null bytes"),
        (b'{"id": 1, "prompt": "\xff"}', "not UTF-8 from byte 21 on"),
        (b'{"id": 1, "prompt": "' + b"x" * 10_000_000 + b'"}', "at most 2 MiB long, got 9.5 MiB"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"id": 1, "prompt": "\\ud83d"}', "half of a surrogate pair"),
        (lines({"prompt": "x"}), '"id" is missing'),
        (lines({"id": True, "prompt": "x"}), "got true"),
        (lines({"id": None, "prompt": "x"}), "got missing or null"),
        (lines({"id": 1.5, "prompt": "x"}), "got 1.5"),
        (lines({"id": "", "prompt": "x"}), 'got ""'),
        (lines({"id": 1}), "got neither"),
        (lines({"id": 1, "prompt": "x", "messages": []}), "got both"),
        (lines({"id": 1, "promt": "x"}), 'unknown key "promt"'),
        (lines({"id": 1, "prompt": ""}), "prompt is empty"),
        (lines({"id": 1, "prompt": " \n"}), "prompt is empty"),
        (lines({"id": 1, "prompt": ["x"]}), 'got ["x"]'),
        (lines({"id": 1, "messages": []}), "got []"),
        (lines({"id": 1, "messages": ["x"]}), 'got "x"'),
        (lines(said("human")), 'messages[0].role cannot be "human"'),
        (lines({"id": 1, "messages": [{"content": "x"}]}), "messages[0].role cannot be missing"),
        (lines({"id": 1, "messages": [{"role": "user"}]}), "got missing"),
        (
            lines({"id": 1, "messages": [{"role": "user", "content": "x", "name": "y"}]}),
            'messages[0] has the unknown key "name"',
        ),
        (lines(said("assistant", "user")), "messages[0] must be from the user, got assistant"),
        (lines(said("user", "user")), "messages[1] must be from the assistant, got user"),
        (lines(said("user", "system")), "messages[1] must be from the assistant, got system"),
        (lines(said("user", "assistant")), "must be from the user, got assistant"),
        (lines(said("system")), "must be from the user, got system"),
    ],
)
def test_a_bad_line(line: bytes, words: str) -> None:
    what, where = fault(lines({"id": 0, "prompt": "good"}) + b"\n" + line)
    assert words in what
    assert where == "in.jsonl:2"


def test_the_same_id_twice_names_both_lines() -> None:
    what, where = fault(lines({"id": 1, "prompt": "x"}, {"id": 1, "prompt": "y"}))
    assert (what, where) == ("id 1 is used at in.jsonl:1 already", "in.jsonl:2")


def test_a_number_and_a_string_are_two_ids() -> None:
    found = prompts.parse(lines({"id": 1, "prompt": "x"}, {"id": "1", "prompt": "y"}), "f")
    assert [p.id for p in found] == [1, "1"]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_nothing_in_it(content: bytes) -> None:
    assert fault(content) == ("the file has no prompts", "in.jsonl")


def test_equal_faults_are_reported_once_with_a_count() -> None:
    with pytest.raises(RequestError) as caught:
        prompts.parse(b"{\n" * 23 + b'{"id": 1}\n', "f")
    first, second = caught.value.problems
    assert first.where == "f:1 and 22 more places: 2, 3, 4, 5, 6, …"
    assert second.where == "f:24"


def test_a_system_message_is_put_in_front_once() -> None:
    asked = prompts.question("x", "be kind")
    assert [m.content for m in asked.messages] == ["be kind", "x"]
    assert prompts.with_system(asked, "be rude") == asked


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_question(text: str) -> None:
    with pytest.raises(RequestError, match="the prompt is empty"):
        prompts.question(text)


def test_sampling_parameters_of_a_prompt() -> None:
    content = lines(
        {"id": 1, "prompt": "x", "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 3},
        {"id": 2, "prompt": "x", "decode": "greedy", "stop": "END", "max_new_tokens": 4},
        {"id": 3, "prompt": "x", "stop": [], "repetition_penalty": 2},
        {"id": 4, "prompt": "x"},
    )
    found = [prompt.sampling for prompt in prompts.parse(content, "f")]
    assert found == [
        SamplingParams(temperature=0.7, top_k=5, top_p=0.9, seed=3),
        SamplingParams(decode="greedy", stop=("END",), max_new_tokens=4),
        SamplingParams(stop=(), repetition_penalty=2),
        prompts.DEFAULT_SAMPLING,
    ]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (
            {"temperature": 0},
            "temperature must be a number greater than 0 and at most 1e+09, got 0",
        ),
        ({"temperature": "0.5"}, 'got "0.5"'),
        ({"temperature": float("nan")}, "got NaN"),
        ({"temperature": float("inf")}, "got Infinity"),
        ({"temperature": 10**400}, "got 1000"),
        ({"temperature": None}, "got missing or null"),
        ({"top_k": -1}, "top_k must be an integer in 0 … 1000000000, got -1"),
        ({"top_k": 2.5}, "got 2.5"),
        ({"top_k": True}, "got true"),
        ({"top_p": 0}, "top_p must be a number greater than 0 and at most 1, got 0"),
        ({"top_p": 1.01}, "got 1.01"),
        ({"repetition_penalty": -1}, "got -1"),
        ({"seed": -1}, "got -1"),
        ({"seed": 2**63}, "got 9223372036854775808"),
        ({"max_new_tokens": 0}, "got 0"),
        ({"max_new_tokens": [1]}, "got [1]"),
        ({"decode": "beam"}, 'got "beam"'),
        ({"decode": 1}, "got 1"),
        ({"decode": "greedy", "top_p": 0.5}, "decode greedy cannot be combined with top_p"),
        ({"stop": ""}, 'got ""'),
        ({"stop": ["a", ""]}, 'got ["a", ""]'),
        ({"stop": 3}, "got 3"),
        ({"temprature": 1}, 'unknown key "temprature"'),
    ],
)
def test_invalid_sampling_parameters(params: dict[str, object], words: str) -> None:
    what, where = fault(lines({"id": 1, "prompt": "x", **params}))
    assert words in what
    assert where == "in.jsonl:1"

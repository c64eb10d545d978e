"""What ``infer --input`` takes, and what it says of what it does not take."""

from __future__ import annotations

import json

import pytest

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import prompts
from paddle_stacks.jobs.prompts import Message, Prompt, Wishes


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
        (b"[1, 2]", "not a JSON object but [1, 2]"),
        (b'{"id": 1, "prompt": "a\0b"}', "null bytes"),
        (b'{"id": 1, "prompt": "\xff"}', "not UTF-8 from byte 21 on"),
        (b'{"id": 1, "prompt": "' + b"x" * 10_000_000 + b'"}', "9.5 MiB long: 2 MiB"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"id": 1, "prompt": "\\ud83d"}', "half of a surrogate pair"),
        (lines({"prompt": "x"}), '"id" is missing'),
        (lines({"id": True, "prompt": "x"}), "id is true"),
        (lines({"id": None, "prompt": "x"}), "id is missing or null"),
        (lines({"id": 1.5, "prompt": "x"}), "id is 1.5"),
        (lines({"id": "", "prompt": "x"}), 'id is ""'),
        (lines({"id": 1}), 'neither of "prompt" and "messages"'),
        (lines({"id": 1, "prompt": "x", "messages": []}), 'both of "prompt" and "messages"'),
        (lines({"id": 1, "promt": "x"}), 'unknown key "promt"'),
        (lines({"id": 1, "prompt": ""}), "prompt is empty"),
        (lines({"id": 1, "prompt": " \n"}), "prompt is empty"),
        (lines({"id": 1, "prompt": ["x"]}), 'prompt is ["x"]'),
        (lines({"id": 1, "messages": []}), "messages is []"),
        (lines({"id": 1, "messages": ["x"]}), 'messages[0] is "x"'),
        (lines(said("human")), 'messages[0].role is "human"'),
        (lines({"id": 1, "messages": [{"content": "x"}]}), "messages[0].role is missing"),
        (lines({"id": 1, "messages": [{"role": "user"}]}), "messages[0].content is missing"),
        (
            lines({"id": 1, "messages": [{"role": "user", "content": "x", "name": "y"}]}),
            'messages[0] has the unknown key "name"',
        ),
        (lines(said("assistant", "user")), "messages[0] is the assistant's"),
        (lines(said("user", "user")), "messages[1] is the user's: it is the assistant's turn"),
        (lines(said("user", "system")), "messages[1] is the system's"),
        (lines(said("user", "assistant")), "the last message is the assistant's"),
        (lines(said("system")), "the last message is the system's"),
    ],
)
def test_a_bad_line(line: bytes, words: str) -> None:
    what, where = fault(lines({"id": 0, "prompt": "good"}) + b"\n" + line)
    assert words in what
    assert where == "in.jsonl:2"


def test_the_same_id_twice_names_both_lines() -> None:
    what, where = fault(lines({"id": 1, "prompt": "x"}, {"id": 1, "prompt": "y"}))
    assert (what, where) == ("the id 1 is in in.jsonl:1 already", "in.jsonl:2")


def test_a_number_and_a_string_are_two_ids() -> None:
    found = prompts.parse(lines({"id": 1, "prompt": "x"}, {"id": "1", "prompt": "y"}), "f")
    assert [p.id for p in found] == [1, "1"]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_nothing_in_it(content: bytes) -> None:
    assert fault(content) == ("there are no prompts", "in.jsonl")


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


def test_what_a_prompt_wishes() -> None:
    content = lines(
        {"id": 1, "prompt": "x", "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 3},
        {"id": 2, "prompt": "x", "decode": "greedy", "stop": "END", "max_new_tokens": 4},
        {"id": 3, "prompt": "x", "stop": [], "repetition_penalty": 2},
        {"id": 4, "prompt": "x"},
    )
    found = [prompt.wishes for prompt in prompts.parse(content, "f")]
    assert found == [
        Wishes(temperature=0.7, top_k=5, top_p=0.9, seed=3),
        Wishes(decode="greedy", stop=("END",), max_new_tokens=4),
        Wishes(stop=(), repetition_penalty=2),
        prompts.NO_WISHES,
    ]


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"temperature": 0}, "temperature is 0: it has to be a number above 0"),
        ({"temperature": "0.5"}, 'temperature is "0.5"'),
        ({"temperature": float("nan")}, "temperature is NaN"),
        ({"temperature": float("inf")}, "temperature is Infinity"),
        ({"temperature": 10**400}, "temperature is 1000"),
        ({"temperature": None}, "temperature is missing or null"),
        ({"top_k": -1}, "top_k is -1: it has to be a whole number"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_k": True}, "top_k is true"),
        ({"top_p": 0}, "top_p is 0: it has to be a number in (0, 1]"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"repetition_penalty": -1}, "repetition_penalty is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": [1]}, "max_new_tokens is [1]"),
        ({"decode": "beam"}, 'decode is "beam"'),
        ({"decode": 1}, "decode is 1"),
        ({"decode": "greedy", "top_p": 0.5}, "top_p and decode greedy"),
        ({"stop": ""}, 'stop is ""'),
        ({"stop": ["a", ""]}, 'stop is ["a", ""]'),
        ({"stop": 3}, "stop is 3"),
        ({"temprature": 1}, 'unknown key "temprature"'),
    ],
)
def test_a_wish_that_cannot_be_met(wishes: dict[str, object], words: str) -> None:
    what, where = fault(lines({"id": 1, "prompt": "x", **wishes}))
    assert words in what
    assert where == "in.jsonl:1"

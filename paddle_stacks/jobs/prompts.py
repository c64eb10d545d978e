"""The file of prompts that ``infer --input`` answers: a JSON object per line.

``{"id": …, "prompt": "…"}`` is one question; ``{"id": …, "messages": [{"role": …,
"content": …}, …]}`` is a conversation whose last message is the user's. A line may
also say how its answer is chosen and where it ends (:class:`Wishes`). Blank lines
are skipped. Every line is checked before any is answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs.fault_report import FaultReport

__all__ = [
    "LONGEST_LINE",
    "NO_WISHES",
    "ROLES",
    "Message",
    "Prompt",
    "Wishes",
    "listed",
    "parse",
    "question",
    "with_system",
]

ROLES = ("system", "user", "assistant")

LONGEST_LINE = 2 * 2**20
"""Bytes. Nothing that fits into a model's context is longer: 128k tokens are about 0.5 MB."""

_DECODES = ("greedy", "sampling")
_GREATEST = 1e9  # of any number: more of it changes nothing


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Args:
        role: one of :data:`ROLES`.
        content: what was said; not empty.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Wishes:
    """What a prompt says of its answer; None is what the options say.

    Args:
        decode: ``greedy`` or ``sampling``; without it, a temperature, top_k or top_p
            means sampling.
        temperature: > 0.
        top_k: at least 0; 0 for all.
        top_p: in (0, 1].
        repetition_penalty: > 0.
        seed: at least 0.
        max_new_tokens: at least 1.
        stop: texts that end the answer; none at all if empty.
    """

    decode: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] | None = None


NO_WISHES = Wishes()

_WISHES = tuple(field.name for field in fields(Wishes))
_KEYS = ("id", "prompt", "messages", *_WISHES)


@dataclass(frozen=True)
class Prompt:
    """What one answer is asked for.

    Args:
        id: the caller's name for it, unique in its file.
        messages: the conversation; a plain prompt is one message of the user.
        plain: whether it was given as ``prompt``, and so can do without a chat template.
        where: ``file:line``, for messages; empty outside a file.
        wishes: what it says of its answer.
    """

    id: str | int
    messages: tuple[Message, ...]
    plain: bool
    where: str = ""
    wishes: Wishes = NO_WISHES


def question(text: str, system: str | None = None) -> Prompt:
    """Return the prompt that a single question is.

    Raises:
        RequestError: the question is empty.
    """
    if not text.strip():
        raise RequestError("the prompt is empty", remedy="ask something")
    return with_system(Prompt(0, (Message("user", text),), plain=True), system)


def with_system(prompt: Prompt, system: str | None) -> Prompt:
    """Return the prompt with a system message in front, unless it brings its own."""
    if not system or prompt.messages[0].role == "system":
        return prompt
    messages = (Message("system", system), *prompt.messages)
    return replace(prompt, messages=messages)


def parse(content: bytes, name: str) -> list[Prompt]:
    """Return the prompts of a file.

    Args:
        content: the whole file.
        name: what the file is called, for messages.

    Raises:
        RequestError: there is nothing in it, or lines are wrong; the first 20 kinds of
            faults are named with reason and line numbers, the rest is counted.
    """
    prompts: list[Prompt] = []
    problems: list[Problem] = []
    first: dict[str | int, str] = {}
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not raw.strip():
            continue
        where = f"{name}:{number}"
        try:
            prompt = _prompt(raw, where)
            if prompt.id in first:
                raise _Wrong(f"the id {json.dumps(prompt.id)} is in {first[prompt.id]} already")
        except _Wrong as wrong:
            problems.append(Problem(wrong.what, where, wrong.remedy or _FORMAT))
            continue
        first[prompt.id] = where
        prompts.append(prompt)
    if problems:
        raise RequestError(listed(problems, "bad lines"))
    if not prompts:
        remedy = 'a line is {"id": 1, "prompt": "…"} or {"id": 1, "messages": […]}'
        raise RequestError("there are no prompts", where=name, remedy=remedy)
    return prompts


def listed(problems: Sequence[Problem], kind: str) -> list[Problem]:
    """Return the problems with equal ones in one, and one that counts those that are left out.

    Args:
        problems: of lines, as ``file:line``.
        kind: what they are, in the plural.
    """
    report = FaultReport()
    for problem in problems:
        path, _, place = problem.where.rpartition(":")
        report.add(replace(problem, where=path), place)
    return report.problems(kind)


_FORMAT = 'one JSON object a line: {"id": 1, "prompt": "a question"}'


class _Wrong(Exception):
    """A line that is no prompt."""

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what, self.remedy = what, remedy
        super().__init__(what)


def _prompt(raw: bytes, where: str) -> Prompt:
    body = _object(raw)
    _check_keys(body)
    name = body["id"]
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise _Wrong(f"id is {_shown(name)}: it has to be a string or a whole number")
    wishes = _wishes(body)
    if "prompt" in body:
        said = (Message("user", _text(body["prompt"], "prompt")),)
        return Prompt(name, said, True, where, wishes)
    return Prompt(name, _messages(body["messages"]), False, where, wishes)


def _wishes(body: Mapping[str, Any]) -> Wishes:
    given = {name: body[name] for name in _WISHES if name in body}
    if not given:
        return NO_WISHES
    _check_numbers(given)
    decode = given.get("decode")
    if "decode" in given and decode not in _DECODES:
        hint = did_you_mean(decode, _DECODES) if isinstance(decode, str) else ""
        raise _Wrong(f"decode is {_shown(decode)}", hint or "greedy or sampling")
    sampling = [name for name in ("temperature", "top_k", "top_p") if name in given]
    if decode == "greedy" and sampling:
        raise _Wrong(f"{', '.join(sampling)} and decode greedy", '"decode": "sampling"')
    if "stop" in given:
        given["stop"] = _stops(given["stop"])
    return Wishes(**given)


def _check_numbers(given: Mapping[str, Any]) -> None:
    """Check the numbers among a prompt's wishes; they are the options' ranges."""
    for name in ("temperature", "repetition_penalty"):
        _check_number(given, name, "a number above 0, at most 1e9", above=0)
    _check_number(given, "top_p", "a number in (0, 1]", above=0, most=1)
    _check_number(given, "top_k", "a whole number, at least 0", whole=True, above=-1)
    right = "a whole number, at least 0 and below 2**63"
    _check_number(given, "seed", right, whole=True, above=-1, most=2**63 - 1)
    _check_number(given, "max_new_tokens", "a whole number, at least 1", whole=True, above=0)


def _check_number(
    given: Mapping[str, Any],
    name: str,
    right: str,
    *,
    whole: bool = False,
    above: int,
    most: float = _GREATEST,
) -> None:
    if name not in given:
        return
    value = given[name]
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not number or not above < value <= most:  # which no NaN is
        raise _Wrong(f"{name} is {_shown(value)}: it has to be {right}")


def _stops(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise _Wrong(f"stop is {_shown(value)}: it has to be a text, or a list of texts")
    return tuple(texts)


def _object(raw: bytes) -> Mapping[str, Any]:
    if len(raw) > LONGEST_LINE:
        limit = f"{LONGEST_LINE // 2**20} MiB are the limit"
        raise _Wrong(f"the line is {len(raw) / 2**20:.1f} MiB long: {limit}")
    if b"\0" in raw:
        raise _Wrong("the line holds null bytes: is it a text file?")
    try:
        body = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Wrong(f"not UTF-8 from byte {error.start} on", "save the file as UTF-8") from None
    except RecursionError:
        raise _Wrong("not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise _Wrong(f"not JSON: {error}") from None
    if not isinstance(body, dict):
        raise _Wrong(f"not a JSON object but {_shown(body)}")
    return body


def _check_keys(body: Mapping[str, Any]) -> None:
    unknown = [key for key in body if key not in _KEYS]
    if unknown:
        hint = did_you_mean(unknown[0], _KEYS)
        raise _Wrong(f'unknown key "{unknown[0]}"', hint or f"known: {', '.join(_KEYS)}")
    if "id" not in body:
        raise _Wrong('"id" is missing', "number the lines, or name them")
    if ("prompt" in body) == ("messages" in body):
        both = "both" if "prompt" in body else "neither"
        raise _Wrong(f'{both} of "prompt" and "messages": one of them is needed')


def _messages(found: Any) -> tuple[Message, ...]:
    if not isinstance(found, list) or not found:
        raise _Wrong(f"messages is {_shown(found)}: it has to be a list of messages")
    messages = tuple(_message(entry, index) for index, entry in enumerate(found))
    expected = "user"
    for index, message in enumerate(messages):
        if message.role == "system" and index == 0:
            continue
        if message.role != expected:
            raise _Wrong(
                f"messages[{index}] is the {message.role}'s: it is the {expected}'s turn",
                "an optional system message, then user and assistant in turn",
            )
        expected = "assistant" if expected == "user" else "user"
    if messages[-1].role != "user":
        raise _Wrong(f"the last message is the {messages[-1].role}'s: it has to be the user's")
    return messages


def _message(entry: Any, index: int) -> Message:
    name = f"messages[{index}]"
    if not isinstance(entry, dict):
        raise _Wrong(f'{name} is {_shown(entry)}: it has to be {{"role": …, "content": …}}')
    for key in entry:
        if key not in ("role", "content"):
            raise _Wrong(f'{name} has the unknown key "{key}"', "known: role, content")
    role = entry.get("role")
    if role not in ROLES:
        hint = did_you_mean(role, ROLES) if isinstance(role, str) else ""
        raise _Wrong(f"{name}.role is {_shown(role)}", hint or f"roles: {', '.join(ROLES)}")
    return Message(role, _text(entry.get("content"), f"{name}.content"))


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"{name} is {_shown(value)}: it has to be a string")
    if not value.strip():
        raise _Wrong(f"{name} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _Wrong(f"{name} holds half of a surrogate pair", "write the whole pair") from None
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "missing or null"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"

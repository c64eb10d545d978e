"""The file of prompts that ``infer --input`` answers: a JSON object per line.

``{"id": …, "prompt": "…"}`` is one question; ``{"id": …, "messages": [{"role": …,
"content": …}, …]}`` is a conversation whose last message is the user's. A line may
also have sampling parameters (:class:`SamplingParams`). Blank lines are skipped. All lines
are checked before the first is answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs.fault_report import FaultReport
from paddle_stacks.jobs.options import DecodingOptions, specs

__all__ = [
    "DEFAULT_SAMPLING",
    "LONGEST_LINE",
    "ROLES",
    "Message",
    "Prompt",
    "SamplingParams",
    "listed",
    "parse",
    "question",
    "with_system",
]

ROLES = ("system", "user", "assistant")

LONGEST_LINE = 2 * 2**20
"""Maximum bytes of a line. 128k tokens, a model's whole context, are about 0.5 MB."""

# The options whose values a line can override.
_SPECS = {spec.name: spec for spec in specs(DecodingOptions)}
_NUMBERS = tuple(name for name, spec in _SPECS.items() if spec.range)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Args:
        role: one of :data:`ROLES`.
        content: the text; not empty.
    """

    role: str
    content: str


@dataclass(frozen=True)
class SamplingParams:
    """The sampling parameters of a prompt; None for those of the command line.

    Their ranges are those of ``infer``'s options.

    Args:
        decode: ``greedy`` or ``sampling``; by default ``sampling`` if temperature, top_k or
            top_p is set.
        temperature: sampling temperature.
        top_k: number of most likely tokens; 0 for all.
        top_p: cumulative probability.
        repetition_penalty: factor for tokens that occurred already.
        seed: random seed.
        max_new_tokens: maximum number of tokens of the answer.
        stop: texts that end the answer; empty for none.
    """

    decode: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] | None = None


DEFAULT_SAMPLING = SamplingParams()

_SAMPLING = tuple(field.name for field in fields(SamplingParams))
_KEYS = ("id", "prompt", "messages", *_SAMPLING)


@dataclass(frozen=True)
class Prompt:
    """A prompt to answer.

    Args:
        id: the caller's name for it, unique in its file.
        messages: the conversation; a plain prompt is one message of the user.
        plain: whether it is a ``prompt``, which needs no chat template.
        where: ``file:line``, for messages; empty outside a file.
        sampling: its sampling parameters.
    """

    id: str | int
    messages: tuple[Message, ...]
    plain: bool
    where: str = ""
    sampling: SamplingParams = DEFAULT_SAMPLING


def question(text: str, system: str | None = None) -> Prompt:
    """Return the prompt of a single question.

    Raises:
        RequestError: the question is empty.
    """
    if not text.strip():
        raise RequestError("the prompt is empty", remedy="write a question")
    return with_system(Prompt(0, (Message("user", text),), plain=True), system)


def with_system(prompt: Prompt, system: str | None) -> Prompt:
    """Return the prompt with a system message, unless it has its own."""
    if not system or prompt.messages[0].role == "system":
        return prompt
    messages = (Message("system", system), *prompt.messages)
    return replace(prompt, messages=messages)


def parse(content: bytes, name: str) -> list[Prompt]:
    """Return the prompts of a file.

    Args:
        content: the whole file.
        name: name of the file, for messages.

    Raises:
        RequestError: the file is empty, or lines are wrong. Reports the first 20 kinds of
            faults with reasons and line numbers, and counts the others.
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
                raise _Wrong(f"id {json.dumps(prompt.id)} is used at {first[prompt.id]} already")
        except _Wrong as wrong:
            problems.append(Problem(wrong.what, where, wrong.remedy or _FORMAT))
            continue
        first[prompt.id] = where
        prompts.append(prompt)
    if problems:
        raise RequestError(listed(problems, "bad lines"))
    if not prompts:
        remedy = 'a line is {"id": 1, "prompt": "…"} or {"id": 1, "messages": […]}'
        raise RequestError("the file has no prompts", where=name, remedy=remedy)
    return prompts


def listed(problems: Sequence[Problem], kind: str) -> list[Problem]:
    """Return the problems with equal ones merged, and one with the number of the others.

    Args:
        problems: problems of lines, as ``file:line``.
        kind: a noun for them, in the plural.
    """
    report = FaultReport()
    for problem in problems:
        path, _, place = problem.where.rpartition(":")
        report.add(replace(problem, where=path), place)
    return report.problems(kind)


_FORMAT = 'one JSON object per line: {"id": 1, "prompt": "a question"}'


class _Wrong(Exception):
    """A line that is not a prompt."""

    def __init__(self, message: str, remedy: str = "") -> None:
        self.what, self.remedy = message, remedy
        super().__init__(message)


def _prompt(raw: bytes, where: str) -> Prompt:
    body = _object(raw)
    _check_keys(body)
    name = body["id"]
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise _Wrong(f"id must be a string or an integer, got {_shown(name)}")
    sampling = _sampling(body)
    if "prompt" in body:
        messages = (Message("user", _text(body["prompt"], "prompt")),)
        return Prompt(name, messages, True, where, sampling)
    return Prompt(name, _messages(body["messages"]), False, where, sampling)


def _sampling(body: Mapping[str, Any]) -> SamplingParams:
    values = {name: body[name] for name in _SAMPLING if name in body}
    if not values:
        return DEFAULT_SAMPLING
    _check_numbers(values)
    decode = values.get("decode")
    strategies = _SPECS["decode"].choices
    if "decode" in values and decode not in strategies:
        hint = did_you_mean(decode, strategies) if isinstance(decode, str) else ""
        message = f"decode must be {' or '.join(strategies)}, got {_shown(decode)}"
        raise _Wrong(message, hint or '"decode": "sampling"')
    conflicts = [name for name in ("temperature", "top_k", "top_p") if name in values]
    if decode == "greedy" and conflicts:
        message = f"decode greedy cannot be combined with {', '.join(conflicts)}"
        raise _Wrong(message, '"decode": "sampling"')
    if "stop" in values:
        values["stop"] = _stops(values["stop"])
    return SamplingParams(**values)


def _check_numbers(values: Mapping[str, Any]) -> None:
    """Check the numbers among a prompt's sampling parameters, by the options' ranges."""
    for name in _NUMBERS:
        if name not in values:
            continue
        value, spec = values[name], _SPECS[name]
        types = (int, float) if spec.type is float else (int,)
        is_number = isinstance(value, types) and not isinstance(value, bool)
        if not is_number or spec.range is None or value not in spec.range:
            kind = "a number" if spec.type is float else "an integer"
            raise _Wrong(f"{name} must be {kind} {spec.range}, got {_shown(value)}")


def _stops(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise _Wrong(f"stop must be a text or a list of texts, got {_shown(value)}")
    return tuple(texts)


def _object(raw: bytes) -> Mapping[str, Any]:
    if len(raw) > LONGEST_LINE:
        limit = f"{LONGEST_LINE // 2**20} MiB"
        raise _Wrong(f"the line must be at most {limit} long, got {len(raw) / 2**20:.1f} MiB")
    if b"\0" in raw:
        raise _Wrong("the line contains null bytes: is it a text file?")
    try:
        body = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Wrong(f"not UTF-8 from byte {error.start} on", "save the file as UTF-8") from None
    except RecursionError:
        raise _Wrong("the JSON is nested too deeply") from None
    except ValueError as error:
        raise _Wrong(f"not JSON: {error}") from None
    if not isinstance(body, dict):
        raise _Wrong(f"expected a JSON object, got {_shown(body)}")
    return body


def _check_keys(body: Mapping[str, Any]) -> None:
    unknown = [key for key in body if key not in _KEYS]
    if unknown:
        hint = did_you_mean(unknown[0], _KEYS)
        raise _Wrong(f'unknown key "{unknown[0]}"', hint or f"known: {', '.join(_KEYS)}")
    if "id" not in body:
        raise _Wrong('"id" is missing', "give each line a number or a name")
    if ("prompt" in body) == ("messages" in body):
        got = "both" if "prompt" in body else "neither"
        raise _Wrong(f'expected one of "prompt" and "messages", got {got}')


def _messages(entries: Any) -> tuple[Message, ...]:
    if not isinstance(entries, list) or not entries:
        raise _Wrong(f"messages must be a list of messages, got {_shown(entries)}")
    messages = tuple(_message(entry, index) for index, entry in enumerate(entries))
    expected = "user"
    for index, message in enumerate(messages):
        if message.role == "system" and index == 0:
            continue
        if message.role != expected:
            raise _Wrong(
                f"messages[{index}] must be from the {expected}, got {message.role}",
                "an optional system message, then user and assistant alternate",
            )
        expected = "assistant" if expected == "user" else "user"
    if messages[-1].role != "user":
        raise _Wrong(f"the last message must be from the user, got {messages[-1].role}")
    return messages


def _message(entry: Any, index: int) -> Message:
    name = f"messages[{index}]"
    if not isinstance(entry, dict):
        raise _Wrong(f'{name} must be {{"role": …, "content": …}}, got {_shown(entry)}')
    for key in entry:
        if key not in ("role", "content"):
            raise _Wrong(f'{name} has the unknown key "{key}"', "known: role, content")
    role = entry.get("role")
    if role not in ROLES:
        hint = did_you_mean(role, ROLES) if isinstance(role, str) else ""
        raise _Wrong(f"{name}.role cannot be {_shown(role)}", hint or f"roles: {', '.join(ROLES)}")
    return Message(role, _text(entry.get("content"), f"{name}.content"))


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"{name} must be a string, got {_shown(value)}")
    if not value.strip():
        raise _Wrong(f"{name} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _Wrong(
            f"{name} contains half of a surrogate pair", "write the character as UTF-8"
        ) from None
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "missing or null"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"

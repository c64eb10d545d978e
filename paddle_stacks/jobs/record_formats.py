"""The formats of a training record, and the conversation that each of them means.

======================  ============================================================
PaddleNLP               ``{"src": …, "tgt": …}``, each a string or a list of turns
Alpaca                  ``{"instruction": …, "input": …, "output": …}``
ShareGPT                ``{"conversations": [{"from": "human", "value": …}, …]}``
messages (OpenAI, TRL)  ``{"messages": [{"role": "user", "content": …}, …]}``
named columns           ``{"question": …, "answer": …}`` with ``data_columns``
======================  ============================================================

``system`` and ``history`` are learned. Keys that would change what is learned and are not
supported are refused, and other keys are reported as ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paddle_stacks.errors import RequestError, did_you_mean

__all__ = ["COLUMNS", "FORMAT", "FORMAT_NAMES", "Conversation", "conversation"]

FORMAT = (
    'one JSON object a line: {"src": "a question", "tgt": "its answer"}, or the format of '
    "Alpaca, ShareGPT or OpenAI (messages): see docs/data-formats.md"
)

_PADDLENLP = 'one JSON object a line: {"src": "a question", "tgt": "its answer"}'

# The key that tells a format, and the keys that the format has.
_FORMATS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "system"),
    "conversations": ("conversations", "system"),
    "instruction": ("instruction", "input", "output", "system", "history"),
    "src": ("src", "tgt", "system", "history", "context"),
}

COLUMNS = "columns"
"""The format of records whose columns the configuration names."""

FORMAT_NAMES = {
    "messages": "OpenAI (messages)",
    "conversations": "ShareGPT (conversations)",
    "instruction": "Alpaca (instruction, output)",
    "src": "PaddleNLP (src, tgt)",
    COLUMNS: "columns by name",
}
"""The name of each format, for a person."""

# Names of questions and answers in the public data sets, the likelier first.
_QUESTIONS = ("question", "prompt", "query", "input", "instruction", "source", "text")
_ANSWERS = ("answer", "response", "completion", "output", "target", "label")

# Keys that other tools give a meaning to: which text is learned, or with which weight.
_UNSUPPORTED = frozenset(
    {
        *("answer", "completion", "input", "instruction", "output", "prompt", "query", "question"),
        *("response", "target", "text", "system_message", "system_prompt"),
        *("chosen", "rejected", "kto_tag", "label", "labels", "sort"),
        *("function_call", "functions", "tool_calls", "tools"),
        *("loss_mask", "mask", "train", "weight", "weights"),
        *("audio", "audios", "image", "images", "video", "videos"),
    }
)

_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES = {
    **_ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Conversation:
    """The conversation of a record.

    Args:
        src: what the user says, one string a turn.
        tgt: what the model is to answer, one string a turn.
        system: the system message, or None.
        context: variables for a chat template in PaddleNLP's format.
        ignored: keys of the record that have no effect.
        format: a key of :data:`FORMAT_NAMES`.
    """

    src: tuple[str, ...]
    tgt: tuple[str, ...]
    system: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    format: str = "src"


def conversation(
    entry: Any, *, upstream: bool = False, columns: Sequence[str] = ()
) -> Conversation:
    """Return the conversation that a JSON value means.

    Args:
        entry: a value of the data.
        upstream: whether PaddleNLP's own program will read it, which knows ``src``, ``tgt``
            and ``context`` only.
        columns: the keys of question, answer and, if there is one, system message; empty to
            tell the format by the keys.

    Raises:
        RequestError: it is not a record, or has a key that is not supported.
    """
    if not isinstance(entry, dict):
        raise RequestError("not a JSON object", remedy=FORMAT)
    if columns:
        return _by_columns(entry, columns)
    # Rows of a table have every column; one without a value does not count.
    entry = {k: v for k, v in entry.items() if v is not None or k in ("src", "tgt")}
    name = _format(entry)
    if upstream:
        _check_upstream(entry, name)
    system = _system(entry)
    if name == "messages":
        turns = _messages(entry["messages"], "messages", ("role", "content"), _ROLES)
        src, tgt, system = _paired(turns, system)
    elif name == "conversations":
        keys = ("from", "value")
        turns = _messages(entry["conversations"], "conversations", keys, _SHAREGPT_ROLES)
        src, tgt, system = _paired(turns, system)
    elif name == "instruction":
        src, tgt = _alpaca(entry)
    else:
        src, tgt = _source_and_target(entry)
    if history := entry.get("history"):
        earlier_src, earlier_tgt = _history(history)
        src, tgt = (*earlier_src, *src), (*earlier_tgt, *tgt)
    _check_answers(tgt, {"instruction": "output", "src": "tgt"}.get(name, "assistant"))
    context = entry.get("context", {})
    if not isinstance(context, dict):
        raise RequestError('"context" must be an object', remedy=FORMAT)
    return Conversation(
        src, tgt, system, context if name == "src" else {}, _ignored_keys(entry, name), name
    )


def _by_columns(entry: Mapping[str, Any], columns: Sequence[str]) -> Conversation:
    """Return the turn in the named columns; the others have no effect."""
    texts: list[str] = []
    for name in columns:
        value = entry.get(name)
        if name not in entry or (value is None and len(texts) < 2):
            shown = ", ".join(list(entry)[:20])
            remedy = did_you_mean(name, entry) or f"columns of this record: {shown}"
            raise RequestError(f'"{name}" of data_columns is missing', remedy=remedy)
        if not isinstance(value, (str, type(None))):
            message = f'"{name}" must be a string'
            raise RequestError(message, remedy="name another column, or write the value as text")
        _check_characters(value or "", name)
        texts.append(value or "")
    question, answer, system = (*texts, "")[:3]
    _check_answers([answer], columns[1])
    ignored = tuple(key for key in entry if key not in columns)
    return Conversation(
        (question,), (answer,), system if system.strip() else None, {}, ignored, COLUMNS
    )


def _format(entry: Mapping[str, Any]) -> str:
    """Return the key that tells the format of a record."""
    present = [key for key in _FORMATS if key in entry or (key == "src" and "tgt" in entry)]
    if len(present) > 1:
        names = " and ".join(f'"{key}"' for key in present)
        raise RequestError(
            f"{names} are keys of different formats", remedy="keep the keys of one format"
        )
    return present[0] if present else "src"


def _check_upstream(entry: Mapping[str, Any], name: str) -> None:
    """Refuse what PaddleNLP's own program would not learn, or could not read."""
    extra = [key for key in ("system", "history") if entry.get(key)]
    if name == "src" and not extra:
        return
    key = extra[0] if name == "src" else name
    raise RequestError(
        f'PaddleNLP\'s own program does not read "{key}"',
        remedy="./inv finetune reads it; PaddleNLP's program reads " + _PADDLENLP,
    )


def _ignored_keys(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the keys without an effect, after a check that none of them carries a meaning."""
    keys = _FORMATS[name]
    ignored = [key for key in entry if key not in keys]
    for key in ignored:
        if key.lower() in _UNSUPPORTED and entry[key] not in ("", [], {}):
            raise RequestError(
                f'"{key}" is not supported beside "{name}"',
                remedy=f'remove "{key}", or write what it says into the conversation',
            )
        if hint := did_you_mean(key.lower(), [each for each in keys if each not in entry]):
            raise RequestError(f'unknown key "{key}"', remedy=f"{hint} or remove the key")
    return tuple(ignored)


def _system(entry: Mapping[str, Any]) -> str | None:
    system = entry.get("system")
    if system is None:
        return None
    if not isinstance(system, str):
        raise RequestError('"system" must be a string', remedy=FORMAT)
    _check_characters(system, "system")
    return system if system.strip() else None


def _source_and_target(entry: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    missing = [name for name in ("src", "tgt") if name not in entry]
    if missing:
        names = " and ".join(f'"{name}"' for name in missing)
        verb = "is" if len(missing) == 1 else "are"
        remedy = did_you_mean(missing[0], entry) or _columns_remedy(entry, missing) or FORMAT
        raise RequestError(f"{names} {verb} missing", remedy=remedy)
    src, tgt = _strings(entry, "src"), _strings(entry, "tgt")
    if isinstance(entry["src"], list) is not isinstance(entry["tgt"], list):
        raise RequestError('"src" and "tgt" must both be strings, or both be lists', remedy=FORMAT)
    if len(src) != len(tgt):
        raise RequestError(
            f'"src" has {len(src)} turns and "tgt" has {len(tgt)}',
            remedy="every turn needs an answer",
        )
    return src, tgt


def _columns_remedy(entry: Mapping[str, Any], missing: Sequence[str]) -> str:
    """Return the setting that names the columns of a record; empty where it has no two."""
    texts = [key for key, value in entry.items() if isinstance(value, str)]
    if len(missing) < 2 or len(texts) < 2:
        return ""
    by_name = {key.lower(): key for key in texts}
    question = next((by_name[name] for name in _QUESTIONS if name in by_name), "QUESTION")
    answer = next((by_name[name] for name in _ANSWERS if name in by_name), "ANSWER")
    shown = ", ".join(texts[:20])
    return f"name the columns: --set data_columns={question}:{answer} (the record has {shown})"


def _alpaca(entry: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the turn of an Alpaca record: instruction and input are one question."""
    if "output" not in entry:
        raise RequestError('"output" is missing', remedy=FORMAT)
    for key in ("instruction", "input", "output"):
        value = entry.get(key, "")
        if not isinstance(value, str):
            raise RequestError(f'"{key}" must be a string', remedy=FORMAT)
        _check_characters(value, key)
    question = "\n".join(filter(None, (entry["instruction"], entry.get("input", ""))))
    return (question,), (entry["output"],)


def _history(value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the earlier turns: pairs of a question and its answer."""
    src, tgt = [], []
    for pair in value if isinstance(value, list) else [None]:
        if not isinstance(pair, list) or [type(text) for text in pair] != [str, str]:
            raise RequestError(
                '"history" must be a list of pairs',
                remedy='write [["an earlier question", "its answer"], …]',
            )
        for text in pair:
            _check_characters(text, "history")
        src.append(pair[0])
        tgt.append(pair[1])
    return tuple(src), tuple(tgt)


def _messages(
    value: Any, name: str, keys: tuple[str, str], roles: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return role and text of each message."""
    if not isinstance(value, list) or not value:
        raise RequestError(f'"{name}" must be a list of messages', remedy=FORMAT)
    turns = []
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in keys):
            raise RequestError(
                f'a message of "{name}" must have "{keys[0]}" and "{keys[1]}" as text',
                remedy=FORMAT,
            )
        for key in message:
            if key in _UNSUPPORTED and message[key] not in (None, "", [], {}):
                raise RequestError(
                    f'"{key}" of a message is not supported',
                    remedy=f'remove "{key}" from the messages, or leave the record out',
                )
        role = roles.get(message[keys[0]])
        if role is None:
            raise RequestError(
                f'"{message[keys[0]]}" is not a supported role', remedy=f"roles: {', '.join(roles)}"
            )
        _check_characters(message[keys[1]], name)
        turns.append((role, message[keys[1]]))
    return turns


def _paired(
    turns: Sequence[tuple[str, str]], system: str | None
) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    """Return questions, answers and the system message of a list of messages."""
    if turns[0][0] == "system":
        if system is not None:
            raise RequestError("two system messages", remedy='keep "system" or the first message')
        system, turns = turns[0][1] or None, turns[1:]
    expected = ("user", "assistant")
    alternate = all(role == expected[at % 2] for at, (role, _) in enumerate(turns))
    if not turns or not alternate or len(turns) % 2:
        raise RequestError(
            "user and assistant must alternate, the user first and the assistant last",
            remedy="merge messages in a row, and remove a last message without an answer",
        )
    return tuple(t for _, t in turns[::2]), tuple(t for _, t in turns[1::2]), system


def _check_answers(answers: Sequence[str], name: str) -> None:
    empty = [index for index, text in enumerate(answers, start=1) if not text.strip()]
    if empty:
        turn = f" in turn {empty[0]}" if len(answers) > 1 else ""
        raise RequestError(
            f'"{name}" is empty{turn}: there is nothing to learn',
            remedy="write the answer, or leave the record out",
        )


def _strings(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = entry[name]
    turns = value if isinstance(value, list) else [value]
    if not turns or not all(isinstance(turn, str) for turn in turns):
        raise RequestError(f'"{name}" must be a string, or a list of strings', remedy=FORMAT)
    for turn in turns:
        _check_characters(turn, name)
    return tuple(turns)


def _check_characters(text: str, name: str) -> None:
    if _SURROGATE.search(text):
        raise RequestError(
            f'"{name}" contains half of a surrogate pair, which is not a character',
            remedy="write the character as UTF-8",
        )

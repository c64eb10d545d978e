"""Checks of single values: type and range."""

from __future__ import annotations

import json
from typing import Any

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.schema.keys import Key, Schema

__all__ = ["check_value", "from_override", "unknown_key"]

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def unknown_key(name: str, where: str, schema: Schema) -> Problem:
    """Return the problem of a key that upstream does not read in this job."""
    if name in schema.renamed:
        right = schema.renamed[name]
        return Problem(f'"{name}" is called "{right}"', where, f'write "{right}"')
    hint = did_you_mean(name, schema.keys)
    return Problem(f'unknown key "{name}"', where, hint or "remove it")


def check_value(key: Key, value: Any, where: str) -> tuple[Any, Problem | None]:
    """Return the value in its key's type, and its problem.

    Integers are valid numbers, and 3.0 is a valid integer. true is not a number, and "1e-4" is
    a string.
    """
    if value is None and key.default is None:
        return None, None
    if key.kind is float and type(value) is int:
        value = float(value)
    if key.kind is int and type(value) is float and value.is_integer():
        value = int(value)
    if key.kind is not object and type(value) is not key.kind:
        return value, _wrong_type(key, value, where)
    return value, _out_of_bounds(key, value, where)


def key_value(text: str, example: str = "learning_rate=1e-4") -> tuple[str, str]:
    """Return key and value of a ``--set KEY=VALUE``, both as text.

    Args:
        text: the option's value.
        example: a valid one, for the error.

    Raises:
        RequestError: the equals sign or the key is missing.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise RequestError(
            f'"{text}" is not KEY=VALUE', where="--set", remedy=f"such as --set {example}"
        )
    return name.strip(), value


def from_override(text: str) -> tuple[str, Any]:
    """Return key and value of a ``--set KEY=VALUE``.

    The value is JSON if it is valid JSON, and a string otherwise.

    Raises:
        RequestError: the equals sign or the key is missing.
    """
    name, value = key_value(text)
    try:
        return name, json_files.parse(value)
    except ValueError:
        return name, value


def _wrong_type(key: Key, value: Any, where: str) -> Problem:
    message = f'"{key.name}" must be {_NAMES[key.kind]}, not {_shown(value)}'
    return Problem(message, where, _type_remedy(key, value))


def _type_remedy(key: Key, value: Any) -> str:
    if isinstance(value, str) and key.kind in (int, float):
        try:
            float(value)
        except ValueError:
            return _default_remedy(key)
        return f'a number has no quotes: "{key.name}": {value}'
    if isinstance(value, str) and key.kind is bool and value.lower() in ("true", "false"):
        return f'write "{key.name}": {value.lower()}, lower case and without quotes'
    if key.kind is bool and value in (0, 1):
        return f'write "{key.name}": {str(bool(value)).lower()}'
    return _default_remedy(key)


def _default_remedy(key: Key) -> str:
    if key.default is None:
        return "remove it to use the default"
    return f"the default is {json.dumps(key.default, ensure_ascii=False)}"


def _out_of_bounds(key: Key, value: Any, where: str) -> Problem | None:
    if key.choices and value not in key.choices:
        choices = ", ".join(f'"{choice}"' for choice in key.choices)
        hint = did_you_mean(str(value), key.choices)
        remedy = f"{hint} one of {choices}".strip()
        return Problem(f'"{key.name}" cannot be {_shown(value)}', where, remedy)
    if key.range is None or value in key.range:
        return None
    return Problem(
        f'"{key.name}" must be {key.range}, not {_shown(value)}', where, _default_remedy(key)
    )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"

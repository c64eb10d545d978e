"""Reading a JSON configuration, with the place of every fault."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError

__all__ = ["LARGEST", "Document", "read"]

LARGEST = 1024 * 1024  # bytes; a configuration has a few hundred lines
_BOM = b"\xef\xbb\xbf"
_TOKEN = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?|[{}\[\]]')


@dataclass(frozen=True)
class Document:
    """The contents of a configuration file.

    Args:
        path: the file.
        values: its keys and values.
        lines: the line of each key, from 1.
        problems: duplicate keys, and values that are not valid JSON.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]
    problems: tuple[Problem, ...]

    def where(self, key: str) -> str:
        """Return ``file:line`` of a key, or the file if it does not contain the key."""
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)


def read(path: Path) -> Document:
    """Read a file with one JSON object.

    Raises:
        RequestError: the file cannot be read, or is not one JSON object in UTF-8.
    """
    text = _text(path)
    twice: list[str] = []
    constants: list[str] = []

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in members]
        twice.extend(name for name in dict.fromkeys(names) if names.count(name) > 1)
        return dict(members)

    try:
        values = json.loads(text, object_pairs_hook=pairs, parse_constant=constants.append)
    except json.JSONDecodeError as error:
        raise RequestError(
            f"not JSON: {error.msg}",
            where=f"{path}:{error.lineno}:{error.colno}",
            remedy=_json_remedy(text, error),
        ) from None
    except ValueError:
        message = "a number has too many digits"
        raise RequestError(message, where=str(path), remedy="shorten it") from None
    except RecursionError:
        raise RequestError(
            "nested too deeply",
            where=str(path),
            remedy="configs/jobs/ has examples to copy",
        ) from None
    if not isinstance(values, dict):
        raise RequestError(
            f"a configuration must be one JSON object, got {_json_name(values)}",
            where=f"{path}:1",
            remedy='write {"model_name_or_path": …, "dataset_name_or_path": …}',
        )
    lines = _key_lines(text)
    problems = [_twice(path, name, lines) for name in twice]
    problems += [
        Problem(f"{name} is not a JSON value", str(path), "write a number, or null")
        for name in constants
    ]
    last = {name: numbers[-1] for name, numbers in lines.items()}
    return Document(path, values, last, tuple(problems))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise RequestError(
            "the configuration does not exist",
            where=str(path),
            remedy="configs/jobs/ has examples to copy; paths start in the workspace",
        ) from None
    except OSError as error:
        raise RequestError(
            f"the configuration cannot be read: {error.strerror}",
            where=str(path),
            remedy=f"chmod u+r {path}",
        ) from None
    if len(data) > LARGEST:
        raise RequestError(
            f"a configuration must be at most {LARGEST // 1024} KiB",
            where=str(path),
            remedy="if this is the data, set dataset_name_or_path to it",
        )
    if data.startswith(_BOM):
        raise RequestError(
            "begins with a byte order mark, which JSON does not allow",
            where=f"{path}:1:1",
            remedy="save it as UTF-8 without a byte order mark",
        )
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise RequestError(
            "contains a null byte", where=f"{path}:{line}", remedy="save it as UTF-8"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RequestError(
            f"not UTF-8: byte 0x{data[error.start]:02x}",
            where=f"{path}:{line}",
            remedy="save it as UTF-8",
        ) from None


def _json_remedy(text: str, error: json.JSONDecodeError) -> str:
    if not text.strip():
        return "the file is empty"
    before = text[: error.pos].rstrip()
    rest = text[error.pos :].lstrip()
    if before.endswith(",") and rest[:1] in ("}", "]", ""):
        return "remove the comma before the closing bracket"
    if rest.startswith(("True", "False", "None")):
        return "write true, false or null"
    if rest.startswith("'"):
        return "use double quotes"
    if rest.startswith(("//", "#", "/*")):
        return "remove the comment"
    return "correct it at that line and column"


def _key_lines(text: str) -> dict[str, list[int]]:
    """Return the lines of each key of the outermost object."""
    lines: dict[str, list[int]] = {}
    depth = line = counted = 0
    for token in _TOKEN.finditer(text):
        string = token.group("string")
        if string is None:
            depth += 1 if token.group() in "{[" else -1
        elif depth == 1 and token.group("colon"):
            line += text.count("\n", counted, token.start())
            counted = token.start()
            lines.setdefault(json.loads(string), []).append(line + 1)
    return lines


def _twice(path: Path, name: str, lines: dict[str, list[int]]) -> Problem:
    numbers = lines.get(name, [])
    where = f"{path}:{numbers[-1]}" if numbers else str(path)
    places = " and ".join(map(str, numbers))
    return Problem(f'"{name}" is set twice (lines {places})', where, "keep one of them")


def _json_name(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")

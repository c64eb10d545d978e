"""Reading a JSON configuration so that every fault in it has a place."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError

__all__ = ["LARGEST", "Document", "read"]

LARGEST = 1024 * 1024  # bytes; a configuration has some hundred lines
_BOM = b"\xef\xbb\xbf"
_TOKEN = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?|[{}\[\]]')


@dataclass(frozen=True)
class Document:
    """A configuration as it was written.

    Args:
        path: the file.
        values: its keys and values.
        lines: the line of each key, from 1.
        problems: keys that are there twice, and values that JSON does not have.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]
    problems: tuple[Problem, ...]

    def where(self, key: str) -> str:
        """Return ``file:line`` of a key, or the file where the key is not in it."""
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)


def read(path: Path) -> Document:
    """Read a file that holds one JSON object.

    Raises:
        RequestError: it cannot be read, or is not one JSON object in UTF-8.
    """
    text = _text(path)
    twice: list[str] = []
    constants: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in found]
        twice.extend(name for name in dict.fromkeys(names) if names.count(name) > 1)
        return dict(found)

    try:
        values = json.loads(text, object_pairs_hook=pairs, parse_constant=constants.append)
    except json.JSONDecodeError as error:
        raise RequestError(
            f"not JSON: {error.msg}",
            where=f"{path}:{error.lineno}:{error.colno}",
            remedy=_json_remedy(text, error),
        ) from None
    except ValueError:
        what = "a number of more digits than a configuration needs"
        raise RequestError(what, where=str(path), remedy="shorten it") from None
    except RecursionError:
        raise RequestError(
            "nested too deeply for a configuration",
            where=str(path),
            remedy="configs/jobs/ has whole ones to copy",
        ) from None
    if not isinstance(values, dict):
        raise RequestError(
            f"a configuration is one JSON object, not {_json_name(values)}",
            where=f"{path}:1",
            remedy='write {"model_name_or_path": …, "dataset_name_or_path": …}',
        )
    lines = _key_lines(text)
    problems = [_twice(path, name, lines) for name in twice]
    problems += [
        Problem(f"{name} is not a JSON value", str(path), "write a number, or null")
        for name in constants
    ]
    last = {name: found[-1] for name, found in lines.items()}
    return Document(path, values, last, tuple(problems))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise RequestError(
            "there is no such configuration",
            where=str(path),
            remedy="configs/jobs/ has whole ones to copy; paths start in the workspace",
        ) from None
    except OSError as error:
        raise RequestError(
            f"the configuration cannot be read: {error.strerror}",
            where=str(path),
            remedy="chmod u+r it, or copy it anew",
        ) from None
    if len(data) > LARGEST:
        raise RequestError(
            f"larger than {LARGEST // 1024} KiB: this is not a configuration",
            where=str(path),
            remedy="is it the data? that is named by dataset_name_or_path",
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
        return "JSON spells it true, false and null"
    if rest.startswith("'"):
        return "JSON has double quotes only"
    if rest.startswith(("//", "#", "/*")):
        return "JSON has no comments"
    return "mend it at that line and column"


def _key_lines(text: str) -> dict[str, list[int]]:
    """Return the lines on which each key of the outermost object stands."""
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
    found = lines.get(name, [])
    where = f"{path}:{found[-1]}" if found else str(path)
    places = " and ".join(map(str, found))
    return Problem(f'"{name}" is there twice (lines {places})', where, "keep one of them")


def _json_name(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")

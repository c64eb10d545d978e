"""Reading of the project's TOML files, with the line numbers of faults."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from paddle_stacks.errors import Problem, RequestError, did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "STRING",
    "STRINGS",
    "Kind",
    "faults",
    "heading_of",
    "kinds_of",
    "line_of",
    "read",
    "unknown_keys",
]


@dataclass(frozen=True)
class Kind:
    """The type of a key's value.

    Args:
        text: the type in words, for messages.
        base: of the value.
        items: of a list's items or a table's values; None for any.
        least: the smallest number; None for any.
    """

    text: str
    base: type
    items: type | None = None
    least: int | None = None

    def fits(self, value: object) -> bool:
        """Return whether a value has this type; true and false are not numbers."""
        if not isinstance(value, self.base) or (isinstance(value, bool) and self.base is not bool):
            return False
        if isinstance(value, int) and self.least is not None and value < self.least:
            return False
        items = value.values() if isinstance(value, dict) else value
        return self.items is None or all(
            isinstance(item, self.items) and not isinstance(item, bool)
            for item in cast("Iterable[object]", items)
        )


STRING = Kind("a string", str)
STRINGS = Kind("a list of strings", list, str)
_KINDS = {
    "str": STRING,
    "tuple[str, ...]": STRINGS,
    "int": Kind("an integer", int),
    "bool": Kind("true or false", bool),
    "Mapping[str, str]": Kind("a table of strings", dict, str),
    "Mapping[str, int]": Kind("a table of integers", dict, int),
    "Mapping[str, Any]": Kind("a table", dict),
}


def kinds_of(cls: type[DataclassInstance], without: Collection[str] = ()) -> dict[str, Kind]:
    """Return the types of a dataclass's fields as keys.

    Args:
        cls: the dataclass.
        without: fields that are not keys.
    """
    return {each.name: _KINDS[str(each.type)] for each in fields(cls) if each.name not in without}


def read(path: Path) -> dict[str, Any]:
    """Return the table in the file ``path``.

    Raises:
        RequestError: the file cannot be read or is not TOML.
    """
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return table
    except OSError as error:
        raise RequestError(
            f"cannot read {path.name}: {error.strerror}",
            where=str(path),
            remedy=f"ls -l {path}",
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path.name} is not UTF-8 text", where=str(path), remedy="save it as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"^(.*?) \(at line (\d+)", str(error))
        message, where = (match[1], f"{path}:{match[2]}") if match else (str(error), str(path))
        raise RequestError(
            f"{path.name} is not TOML: {message}",
            where=where,
            remedy="correct that line; https://toml.io describes the syntax",
        ) from error
    except (RecursionError, ValueError) as error:
        fault = "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
        raise RequestError(
            f"{path.name} is not TOML: {fault}", where=str(path), remedy="shorten that value"
        ) from error


def heading_of(path: Path, name: str) -> str:
    """Return ``path:line`` for the heading of the table ``name``, or just the path."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip().startswith("[") and _name_in(line) == name:
            return f"{path}:{number}"
    return str(path)


def line_of(path: Path, key: str, table: str = "") -> str:
    """Return ``path:line`` of the line that sets ``key``, or of the table's heading.

    Args:
        path: the file.
        key: a key, or a table below ``table``.
        table: name of its table; empty for any.
    """
    setting = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*=""")
    current = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("["):
            current = _name_in(line)
        if (setting.match(line) and table in ("", current)) or current == f"{table}.{key}":
            return f"{path}:{number}"
    return heading_of(path, table)


def _name_in(heading: str) -> str:
    return heading.strip().lstrip("[").split("]")[0].strip('"')


def unknown_keys(
    path: Path, entry: Collection[str], names: Collection[str], table: str = ""
) -> list[Problem]:
    """Return one problem for each unknown key of a table.

    Args:
        path: the file.
        entry: the table.
        names: its valid keys.
        table: its name; empty for the file itself.
    """
    title = f"[{table}] " if table else ""
    return [
        Problem(
            f'{title}unknown key "{key}"',
            line_of(path, key, table),
            did_you_mean(key, names) or f"known keys: {', '.join(sorted(names))}",
        )
        for key in entry
        if key not in names
    ]


def faults(
    path: Path, entry: Mapping[str, Any], kinds: Mapping[str, Kind], remedy: str, table: str = ""
) -> list[Problem]:
    """Return one problem for each key of a table that is unknown or has a wrong type.

    Args:
        path: the file.
        entry: the table.
        kinds: the type of each key.
        remedy: how to fix a wrong type.
        table: its name; empty for the file itself.
    """
    title = f"[{table}] " if table else ""
    return unknown_keys(path, entry, kinds, table) + [
        Problem(f'{title}"{key}" must be {kinds[key].text}', line_of(path, key, table), remedy)
        for key, value in entry.items()
        if key in kinds and not kinds[key].fits(value)
    ]

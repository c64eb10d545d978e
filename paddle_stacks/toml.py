"""Reading the project's TOML files, with the line number of whatever is wrong in them."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["line_of", "read", "unknown_keys"]


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
            remedy="see whether it is there, and this user may read it",
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path.name} is not UTF-8 text", where=str(path), remedy="save it as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"^(.*?) \(at line (\d+)", str(error))
        what, where = (found[1], f"{path}:{found[2]}") if found else (str(error), str(path))
        raise RequestError(
            f"{path.name} is not TOML: {what}",
            where=where,
            remedy="mend that line: https://toml.io says how it is written",
        ) from error
    except (RecursionError, ValueError) as error:
        fault = "nested too deeply" if isinstance(error, RecursionError) else "a number too long"
        raise RequestError(
            f"{path.name} is not TOML: {fault}", where=str(path), remedy="shorten that value"
        ) from error


def line_of(path: Path, key: str) -> str:
    """Return ``path:line`` for the line that sets ``key``, or just the path."""
    setting = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*=""")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if setting.match(line):
            return f"{path}:{number}"
    return str(path)


def unknown_keys(path: Path, table: Collection[str], known: Collection[str]) -> list[Problem]:
    """Return one problem for each key of ``table``, read from ``path``, that is not known."""
    return [
        Problem(
            f'unknown key "{key}"',
            line_of(path, key),
            did_you_mean(key, known) or f"known keys: {', '.join(sorted(known))}",
        )
        for key in table
        if key not in known
    ]

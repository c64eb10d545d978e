"""The short form of the server's access lines, for a terminal."""

from __future__ import annotations

import json
from typing import Any

from paddle_stacks.errors import printable

__all__ = ["summarize"]


def summarize(line: str) -> str | None:
    """Return the short form of an access line; None for other lines."""
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not {"request", "status", "path"} <= fields.keys():
        return None
    return printable("  ".join(_parts(fields)).replace("\n", "\\n"))


def _parts(fields: dict[str, Any]) -> list[str]:
    parts = [
        str(fields.get("time", ""))[11:19],
        str(fields["status"]),
        f"{fields.get('method')} {fields['path']}",
        f"{fields.get('seconds')} s",
    ]
    if "prompt_tokens" in fields:
        parts.append(f"{fields['prompt_tokens']}+{fields.get('completion_tokens')} tokens")
    if fields.get("key"):
        parts.append(str(fields["key"]))
    # Errors come last, because a narrow terminal cuts the end; the log has the full line.
    parts += [str(fields[name]) for name in ("failed", "error", "cause") if fields.get(name)]
    return parts

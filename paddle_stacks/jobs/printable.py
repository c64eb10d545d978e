"""Text of other people's making, made safe for a log line and a terminal."""

from __future__ import annotations

import json
import re

__all__ = ["escape", "shorten"]

# C0 and C1 controls, zero-width and bidirectional marks, line and paragraph separators,
# interlinear annotations, surrogates and tags: what moves the cursor, changes the direction of
# a line, or cannot be seen.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def escape(text: str) -> str:
    r"""Return a text with its control and bidirectional characters as ``\uXXXX``.

    The escapes are JSON's: an escaped JSON document is the same document.
    """
    return _UNSAFE.sub(lambda match: json.dumps(match[0])[1:-1], text)


def shorten(text: str, limit: int) -> str:
    """Return a text cut to ``limit`` characters, with the number of those left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit} more characters)"

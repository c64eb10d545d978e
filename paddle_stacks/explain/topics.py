"""What can be explained: a thing with a name, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Topic"]


@dataclass(frozen=True)
class Topic:
    """Something that is there for a reason.

    Args:
        kind: what it is: image, pin, flag, key, error, …
        name: as it is written.
        says: why it is there, or what it is; sentences.
        facts: what else is known of it, each with a word in front.
    """

    kind: str
    name: str
    says: str
    facts: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-serializable values; facts of the same name are a list."""
        facts: dict[str, list[str]] = {}
        for label, value in self.facts:
            facts.setdefault(label, []).append(value)
        return {"kind": self.kind, "name": self.name, "says": self.says, "facts": facts}

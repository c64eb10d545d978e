"""What a program can say: texts with holes, and which of them a message was made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Hole", "Template", "join", "words_in_common"]

# A path or a number in a message says little about which one it is.
_WORD = re.compile(r"[^\W\d_]{2,}", re.UNICODE)


@dataclass(frozen=True)
class Hole:
    """A part that is known only when it is said.

    Args:
        name: what the code calls it.
    """

    name: str


@dataclass(frozen=True)
class Template:
    """A text with holes.

    Args:
        parts: literal text and holes, in order; no two literals in a row.
    """

    parts: tuple[str | Hole, ...]

    def __str__(self) -> str:
        return self.filled({})

    @property
    def literal(self) -> str:
        """What is literal in it, with a blank for each hole."""
        return "".join(part if isinstance(part, str) else " " for part in self.parts)

    @cached_property
    def letters(self) -> int:
        """How many letters of it are literal: the more, the less another text fits by chance."""
        return sum(map(len, _WORD.findall(self.literal)))

    def fits(self, text: str) -> bool:
        """Whether the whole text can have been made from it."""
        return self._contents(text) is not None

    def values(self, text: str) -> dict[str, str]:
        """Return what the holes hold in a text that can have been made from it, by their names."""
        names = [part.name for part in self.parts if isinstance(part, Hole)]
        return dict(zip(names, self._contents(text) or (), strict=False))

    def _contents(self, text: str) -> list[str] | None:
        """Return what each hole holds, as little as it can; None where the text does not fit.

        A hole may hold anything, so the first place of a literal is as good as any other,
        and one pass is enough. A regular expression would try them all.
        """
        contents: list[str] = []
        position = holes = 0
        for number, part in enumerate(self.parts):
            if isinstance(part, Hole):
                holes += 1
                continue
            last = number == len(self.parts) - 1
            at = text.rfind(part) if last and holes else text.find(part, position)
            if at < position or (not holes and at > position):
                return None
            if holes:
                contents += [*[""] * (holes - 1), text[position:at]]
                holes = 0
            position = at + len(part)
        if holes:
            return [*contents, *[""] * (holes - 1), text[position:]]
        return contents if position == len(text) else None

    def filled(self, values: Mapping[str, str]) -> str:
        """Return the text with the holes filled of which there is a value."""
        return "".join(
            part if isinstance(part, str) else values.get(part.name, f"{{{part.name}}}")
            for part in self.parts
        )


def join(pieces: Iterable[Template]) -> Template:
    """Return the templates one after the other as one."""
    parts: list[str | Hole] = []
    for piece in pieces:
        for part in piece.parts:
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part:
                parts.append(part)
    return Template(tuple(parts))


def words_in_common(template: Template, text: str) -> float:
    """Return the share, 0 to 1, of a template's words that the text has too."""
    words = {word.lower() for word in _WORD.findall(template.literal)}
    found = {word.lower() for word in _WORD.findall(text)}
    return len(words & found) / max(len(words), len(found), 1) if words else 0.0

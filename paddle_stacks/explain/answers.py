"""What ``./inv explain`` answers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_stacks.errors import STATUSES, RequestError
from paddle_stacks.explain import errors
from paddle_stacks.explain.topics import Topic

__all__ = ["Answer", "answer"]

_WIDTH = 100


@dataclass(frozen=True)
class Answer:
    """What is known of a word or a message.

    Args:
        asked: it.
        topics: what it can mean, each with what is known of it.
    """

    asked: str
    topics: tuple[Topic, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-serializable values."""
        return {"asked": self.asked, "topics": [topic.to_json() for topic in self.topics]}

    def text(self) -> str:
        """Return it as a person reads it: a paragraph for each thing it can mean."""
        return "\n\n".join(_paragraph(topic) for topic in self.topics)


def answer(asked: str, root: Path) -> Answer:
    """Return what is known of a word or a message.

    Args:
        asked: a name, or what a program said, with or without ``error:``, ``at:`` and ``fix:``.
        root: the repository's root.

    Raises:
        RequestError: nothing is known of it.
    """
    message = errors.message_of(asked)
    if not message:
        raise RequestError("nothing is asked", where="explain", remedy="./inv explain WORD")
    index = errors.load(root)
    found = [topic_of(entry, message) for entry in errors.who_says(message, index)]
    if not found:
        near = errors.nearest(message, index)
        raise RequestError(
            f'nothing is known of "{_short(message)}"', where="explain", remedy=_instead(near)
        )
    return Answer(message, tuple(found))


def topic_of(entry: errors.Entry, message: str) -> Topic:
    """Return an entry of the index as a topic, with what the message itself names."""
    values = entry.what.values(message)
    facts = [("do", remedy.filled(values)) for remedy in entry.remedies if remedy.parts]
    meaning = STATUSES.get(entry.status, "")
    facts.append(("status", f"{entry.status}: {meaning}" if meaning else entry.status))
    facts.append(("said in", f"{entry.path}:{entry.line}"))
    return Topic(entry.kind, str(entry.what), entry.about, tuple(facts))


def _instead(near: Sequence[errors.Entry]) -> str:
    if near:
        return "did you mean " + ", or ".join(f"`{entry.what}`" for entry in near) + "?"
    return "docs/errors.md lists all messages"


def _short(text: str) -> str:
    return textwrap.shorten(text, 80, placeholder=" …")


def _paragraph(topic: Topic) -> str:
    width = max((len(label) for label, _ in topic.facts), default=0)
    lines = [f"{topic.kind}: {topic.name}"]
    if topic.says:
        lines += textwrap.wrap(topic.says, _WIDTH, initial_indent="  ", subsequent_indent="  ")
    for label, value in topic.facts:
        begin = f"  {label:<{width}}  "
        lines += textwrap.wrap(
            value,
            _WIDTH,
            initial_indent=begin,
            subsequent_indent=" " * len(begin),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [begin.rstrip()]
    return "\n".join(lines)

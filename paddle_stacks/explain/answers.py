"""What ``./inv explain`` answers."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_stacks.doctor import logs
from paddle_stacks.errors import STATUSES, RequestError
from paddle_stacks.explain import commands, configuration, errors, images, pins
from paddle_stacks.explain.commands import Option
from paddle_stacks.explain.topics import Topic

__all__ = ["Answer", "answer", "everything"]

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


def everything(
    root: Path, tasks: Mapping[str, str] | None = None, options: Iterable[Option] = ()
) -> Iterator[Topic]:
    """Yield everything that has a name, and can be explained.

    Args:
        root: the repository's root.
        tasks: what each task does, in a sentence.
        options: the tasks' options.
    """
    yield from images.topics(root)
    yield from pins.topics(root)
    yield from configuration.topics(root)
    yield from commands.topics(root, errors.load(root), tasks or {}, options)


def answer(
    asked: str,
    root: Path,
    tasks: Mapping[str, str] | None = None,
    options: Iterable[Option] = (),
) -> Answer:
    """Return what is known of a word or a message.

    Args:
        asked: a name, or what a program said, with or without ``error:``, ``at:`` and ``fix:``.
        root: the repository's root.
        tasks: what each task does, in a sentence.
        options: the tasks' options.

    Raises:
        RequestError: nothing is known of it.
    """
    message = errors.message_of(asked)
    if not message:
        raise RequestError("nothing is asked", where="explain", remedy="./inv explain WORD")
    topics = list(everything(root, tasks, options))
    word = _plain(message)
    found = [topic for topic in topics if _plain(topic.name) == word]
    if not found and (status := commands.of_status(word)):
        found = [status]
    index = errors.load(root)
    if not found:
        found = [topic_of(entry, message) for entry in errors.who_says(message, index)]
        found += _failures(asked, topics)
    if not found:
        near = [str(entry.what) for entry in errors.nearest(message, index)]
        if " " not in message:
            names = {_plain(topic.name): topic.name for topic in topics}
            close = difflib.get_close_matches(word, names, n=3)
            near = [names[name] for name in close] or near
        raise RequestError(
            f'nothing is known of "{_short(message)}"', where="explain", remedy=_instead(near)
        )
    return Answer(message, tuple(found))


def _plain(word: str) -> str:
    """Return a name without what differs from place to place: dashes, quotes, a version."""
    bare = word.strip().strip("`'\"").lstrip("-").lower()
    bare = re.sub(r"^(exit )?status (?=\d)", "", bare)
    return re.split(r"==|\s*=\s*", bare)[0].replace("_", "-")


def _failures(asked: str, topics: Iterable[Topic]) -> list[Topic]:
    """Return the failures of logs that a text tells of."""
    told = {failure.name for failure in logs.known() if failure.search(asked)}
    return [topic for topic in topics if topic.kind == "failure" and topic.name in told]


def topic_of(entry: errors.Entry, message: str) -> Topic:
    """Return an entry of the index as a topic, with what the message itself names."""
    values = entry.what.values(message)
    facts = [("do", remedy.filled(values)) for remedy in entry.remedies if remedy.parts]
    meaning = STATUSES.get(entry.status, "")
    facts.append(("status", f"{entry.status}: {meaning}" if meaning else entry.status))
    facts.append(("said in", f"{entry.path}:{entry.line}"))
    return Topic(entry.kind, str(entry.what), entry.about, tuple(facts))


def _instead(near: Sequence[str]) -> str:
    if near:
        return "did you mean " + ", or ".join(f"`{name}`" for name in near) + "?"
    return "docs/errors.md lists all messages; ./inv --list the tasks"


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

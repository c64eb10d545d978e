"""Answers of ``./inv explain``."""

from __future__ import annotations

import difflib
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_stacks.doctor import logs
from paddle_stacks.errors import RequestError
from paddle_stacks.explain import commands, configuration, images, pins
from paddle_stacks.explain.commands import Option
from paddle_stacks.explain.topics import Topic

__all__ = ["Answer", "answer", "everything"]


@dataclass(frozen=True)
class Answer:
    """Everything that a word or a line of a log can mean.

    Args:
        query: the word or line.
        topics: what it can mean.
    """

    query: str
    topics: tuple[Topic, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the answer as JSON-serializable values."""
        return {"asked": self.query, "topics": [topic.to_json() for topic in self.topics]}

    def text(self) -> str:
        """Return the answer for a terminal: a paragraph per topic."""
        return "\n\n".join(_paragraph(topic) for topic in self.topics)


def everything(
    root: Path, tasks: Mapping[str, str] | None = None, options: Iterable[Option] = ()
) -> Iterator[Topic]:
    """Yield every topic.

    Args:
        root: the repository's root.
        tasks: one line per task, by its name.
        options: the tasks' options.
    """
    yield from images.topics(root)
    yield from pins.topics(root)
    yield from configuration.topics(root)
    yield from commands.topics(root, tasks or {}, options)


def answer(
    query: str,
    root: Path,
    tasks: Mapping[str, str] | None = None,
    options: Iterable[Option] = (),
) -> Answer:
    """Return what a word means, or which known failure a log shows.

    Args:
        query: a name, or lines of a log.
        root: the repository's root.
        tasks: one line per task, by its name.
        options: the tasks' options.

    Raises:
        RequestError: nothing matches.
    """
    query = query.strip()
    if not query:
        raise RequestError("WORD is required", where="explain", remedy="./inv explain pyarrow")
    topics = list(everything(root, tasks, options))
    word = _plain(query)
    matches = [topic for topic in topics if _plain(topic.name) == word]
    if not matches and (status := commands.of_status(word)):
        matches = [status]
    matches = matches or _failures(query, topics)
    if not matches:
        names = {_plain(topic.name): topic.name for topic in topics}
        near = difflib.get_close_matches(word, names, n=3) if " " not in query else []
        raise RequestError(
            f'nothing is named "{_short(query)}"',
            where="explain",
            remedy=_remedy([names[name] for name in near]),
        )
    return Answer(query, tuple(matches))


def _plain(word: str) -> str:
    """Return a name without what differs from place to place: dashes, quotes, a version."""
    bare = word.strip().strip("`'\"").lstrip("-").lower()
    bare = re.sub(r"^(exit )?status (?=\d)", "", bare)
    return re.split(r"==|\s*=\s*", bare)[0].replace("_", "-")


def _failures(text: str, topics: Iterable[Topic]) -> list[Topic]:
    """Return the known failures that lines of a log show."""
    names = {failure.name for failure in logs.known_failures() if failure.search(text)}
    return [topic for topic in topics if topic.kind == "failure" and topic.name in names]


def _remedy(near: Sequence[str]) -> str:
    if near:
        return "did you mean " + ", or ".join(f"`{name}`" for name in near) + "?"
    return "./inv doctor --log FILE searches a whole log; ./inv --list shows the tasks"


def _short(text: str) -> str:
    return textwrap.shorten(text, 80, placeholder=" …")


def _paragraph(topic: Topic) -> str:
    columns = shutil.get_terminal_size((100, 24)).columns
    width = max((len(label) for label, _ in topic.facts), default=0)
    lines = [f"{topic.kind}: {topic.name}"]
    if topic.says:
        lines += textwrap.wrap(topic.says, columns, initial_indent="  ", subsequent_indent="  ")
    for label, value in topic.facts:
        begin = f"  {label:<{width}}  "
        lines += textwrap.wrap(
            value,
            columns,
            initial_indent=begin,
            subsequent_indent=" " * len(begin),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [begin.rstrip()]
    return "\n".join(lines)

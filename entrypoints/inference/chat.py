"""Chat at a terminal, or through a pipe with one question per line."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from types import FrameType

from entrypoints.inference.session import Session
from entrypoints.runtime.console import note, say
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.prompts import Message, Prompt

__all__ = ["talk"]

_HELP = "/reset starts a new conversation, /exit or Ctrl-D quits, Ctrl-C stops an answer"


def talk(session: Session) -> None:
    """Answer standard input line by line until it ends or a line is ``/exit``.

    Answers go to standard output, everything else to standard error.

    Raises:
        RequestError: standard input was closed from the start.
    """
    if sys.stdin.isatty():
        note(_HELP)
    history: list[Message] = []
    turns = answers = 0
    for line in _lines():
        turns += 1
        if line == "/exit":
            break
        if line == "/reset":
            history.clear()
            note("new conversation")
        elif line.startswith("/"):
            note(f"unknown command {line.split()[0]}: {_HELP}")
        else:
            history = _answer(session, [*history, Message("user", line)], answers)
            answers += 1
    if not turns:
        raise RequestError(
            "standard input is empty",
            where="--chat",
            remedy="use docker run -it … at a terminal, or docker run -i … in a pipe, with one"
            " question per line",
        )


def _lines() -> Iterator[str]:
    """Yield the nonempty lines; Ctrl-C at the prompt only prints a new prompt."""
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401 - gives input() a history and the arrow keys
    while True:
        try:
            line = input("> ") if terminal else sys.stdin.readline()
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            print(file=sys.stderr)
            note("Ctrl-D quits")
            continue
        except UnicodeDecodeError as error:
            raise RequestError(
                f"standard input is not UTF-8: {error.reason}",
                remedy="set the terminal to UTF-8, or give the prompts in a file: --input",
            ) from None
        if not terminal and not line:
            return
        if line.strip():
            yield line.strip()


def _answer(session: Session, history: list[Message], number: int) -> list[Message]:
    """Print the answer to the last message and return the conversation with it.

    If the conversation exceeds the context, its oldest turns are dropped.
    """
    recent, tokens = _truncated(session, history)
    with _Interruption() as interruption:

        def listen(piece: str) -> bool:
            say(piece, end="")
            return not interruption.requested

        [answer] = session.answer([tokens], [number], listen)
    print(flush=True)
    return [*recent, Message("assistant", answer.text)]


def _truncated(session: Session, history: list[Message]) -> tuple[list[Message], list[int]]:
    recent = history
    while True:
        system = session.options.system
        lead = (Message("system", system),) if system else ()
        try:
            return recent, session.text.tokens(Prompt(0, (*lead, *recent), plain=True))
        except RequestError:
            if len(recent) < 3:
                raise
            recent = recent[2:]
            note("the conversation exceeds the model's context: its oldest turn is dropped")


class _Interruption:
    """Makes Ctrl-C stop the answer; a second Ctrl-C before its end stops the job."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> _Interruption:
        self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

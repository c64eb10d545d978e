"""Chat templates, rendered like in transformers.

Templates are compiled and rendered in a separate process
(:mod:`entrypoints.models.chat_template_worker`), which is killed after a timeout.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import chat_templates

__all__ = ["ChatTemplate", "ChatTemplateError", "is_plain", "load", "start_worker", "variables_of"]

_WORKER = Path(__file__).with_name("chat_template_worker.py")
_SECONDS = 10.0
_START_SECONDS = 60.0  # Python and Jinja from a cold disk
_LONGEST = 2**24  # characters
# The names that transformers passes to a template; the tokens of a tokenizer.
_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# Tags and functions that PaddleNLP's own Jinja environment does not have.
_EXTENDED = re.compile(r"{%[-+]?\s*(end)?(generation|break|continue)\b|strftime_now")


class ChatTemplateError(Exception):
    """A template that cannot be compiled, rejects its messages or exceeds a limit."""


class ChatTemplate:
    """A Jinja chat template.

    Args:
        source: the template.
        seconds: the timeout for rendering.
    """

    def __init__(self, source: str, seconds: float = _SECONDS) -> None:
        self.source = source
        self._seconds = seconds

    def check(self) -> None:
        """Compile the template, without rendering it.

        Raises:
            ChatTemplateError: it cannot be compiled.
        """
        _worker.request(self._request(None), self._seconds)

    def render(self, **variables: Any) -> str:
        """Return the text of a conversation.

        Args:
            variables: ``messages``, ``add_generation_prompt`` and the special tokens.

        Raises:
            ChatTemplateError: the template raises an exception, takes too long, or
                renders too much.
        """
        # transformers always passes these two, so that "is defined" is true.
        every = {"tools": None, "documents": None, **variables}
        return _worker.request(self._request(every), self._seconds)

    def _request(self, variables: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"template": self.source, "variables": variables, "longest": _LONGEST}


def variables_of(tokenizer: Any) -> dict[str, str]:
    """Return the special tokens for a template, by name."""
    tokens = tokenizer.special_tokens_map
    return {name: str(tokens[name]) for name in _TOKENS if tokens.get(name) is not None}


def is_plain(source: str) -> bool:
    """Return whether a template does not use the Jinja extensions of transformers."""
    return _EXTENDED.search(source) is None


def load(folder: Path) -> ChatTemplate | None:
    """Return the Jinja template of a model's folder, or None if it has none.

    Raises:
        RequestError: the file cannot be read, or the template cannot be compiled.
    """
    file = chat_templates.find(folder)
    if file is None:
        return None
    template = ChatTemplate(file.source)
    try:
        template.check()
    except ChatTemplateError as error:
        raise RequestError(
            f"the chat template cannot be compiled: {error}",
            where=str(file.path),
            remedy="correct the template, or get it again from the model's source",
        ) from None
    return template


def start_worker() -> None:
    """Start the process that renders templates, while other things are loaded."""
    _worker.start()


class _Worker:
    """The rendering process, started on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._ready = False

    def start(self) -> None:
        """Start the process unless it runs; do not wait until it is ready."""
        with self._lock:
            self._start()

    def request(self, request: Mapping[str, Any], seconds: float) -> str:
        """Return the text that the process renders.

        Raises:
            ChatTemplateError: rendering fails.
        """
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            try:
                process = self._started()
                assert process.stdin is not None
                process.stdin.write(line)
                process.stdin.flush()
                answer = json.loads(_line(process, seconds))
            except TimeoutError:
                self._stop()
                raise ChatTemplateError(f"rendering takes longer than {seconds:g} s") from None
            except (OSError, ValueError, EOFError):
                self._stop()
                raise ChatTemplateError("the rendering process ended") from None
            except BaseException:  # interrupted: otherwise the next request would get this answer
                self._stop()
                raise
        if "error" in answer:
            raise ChatTemplateError(answer["error"])
        text: str = answer["text"]
        return text

    def _started(self) -> subprocess.Popen[bytes]:
        process = self._start()
        if not self._ready:
            _line(process, _START_SECONDS)
            self._ready = True
        return process

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        # In its own session, so that Ctrl-C at a terminal does not stop it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._owner, self._ready = os.getpid(), False
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):  # unwritten data has no reader
                if stream:
                    stream.close()


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Return the next line of a process's output.

    Raises:
        TimeoutError: it takes longer.
        EOFError: the process ended.
    """
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    received: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not (received and received[-1].endswith(b"\n")):
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise TimeoutError
            piece = os.read(process.stdout.fileno(), 2**16)
            if not piece:
                raise EOFError
            received.append(piece)
    return b"".join(received)


_worker = _Worker()
